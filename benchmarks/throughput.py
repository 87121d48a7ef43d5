"""Training and generation against the lab's template in PyTorch: ``python benchmarks/throughput.py``.

Every side runs in a process of its own. Repetitions alternate between the sides, so that what else the machine does
falls on all of them alike; a row is a median with the lowest and the highest. The machine's rates of matrix products
and of copying are measured in between, and each row is compared with the time that they allow.

The template is `torch_lab.py`, eager and with its five modules compiled, at the lab's full width, batch 2 and clips of
16 frames of 32x64. Frames are random: no timing here depends on what is in them. On a GPU our training runs four times:
plain (in TF32 where the card has it), with XLA, in mixed bfloat16, and with both.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

HEIGHT, WIDTH, CLIP, BATCH = 32, 64, 16, 2
VARIANTS = {"cpu": ("",), "gpu": ("", "+xla", "+mixed_bfloat16", "+xla+mixed_bfloat16")}
# Task -> what a repetition yields; generation takes (films, frames of each).
TASKS = {"forced": (BATCH, "clips"), "free": (BATCH, "clips"), "generate_1": ((1, 63), "frames"),
         "generate_16": ((16, 4), "frames")}
# Where 630 frames take seconds; the template's take a minute, and each frame the same time.
LONG = {"lab": {"generate_1": (1, 126)}, "unet": {"generate_1": (1, 630)},
        "unet_films": {"generate_1": (1, 630), "generate_16": (16, 315)}}
# (what, our side, task, ratio to reach)
ROWS = (("lab network, teacher-forced training", "lab", "forced", 1.2),
        ("lab network, free-running training", "lab", "free", 1.0),
        ("lab network, generation", "lab", "generate_1", 1.2),
        ("unet, teacher-forced training", "unet", "forced", 50),
        ("unet, free-running training", "unet", "free", 50),
        ("unet, generation of one film", "unet_films", "generate_1", 60),
        ("unet, generation of 16 films", "unet_films", "generate_16", 100))


# ---------------------------------------------------------------------- the sides; each in a process of its own

def torch_side(compiled, device):
    """The template: task -> a function that runs it once."""
    import torch
    import torch_lab

    device = "cuda" if device == "gpu" else "cpu"
    torch.manual_seed(0)
    model = torch_lab.LabModel().to(device).train()
    if compiled:
        torch._dynamo.config.recompile_limit = 1000  # a block of each width is compiled by itself
        for name, module in list(model.named_children()):
            setattr(model, name, torch.compile(module, dynamic=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    random = lambda *shape: torch.rand(*shape, device=device)  # noqa: E731
    frames, poses = random(CLIP, BATCH, 3, HEIGHT, WIDTH), random(CLIP, BATCH, 3, HEIGHT, WIDTH)

    def train(forced):
        model.train()
        eps = torch.randn(CLIP - 1, BATCH, 12, HEIGHT, WIDTH, device=device)
        float(torch_lab.train_step(model, optimizer, frames, poses, eps, [forced] * (CLIP - 1), 0.001))

    def generate(films, length):
        model.eval()
        z = torch.randn(length, films, 12, HEIGHT, WIDTH, device=device)
        torch_lab.generate(model, random(films, 3, HEIGHT, WIDTH), random(length, films, 3, HEIGHT, WIDTH), z).cpu()

    def matrix_product(n=2048):
        a = random(n, n)
        began = time.perf_counter()
        float((a @ a)[0, 0])
        return 2 * n**3 / (time.perf_counter() - began)

    tasks = {"forced": lambda: train(True), "free": lambda: train(False),
             **{name: lambda size=size: generate(*size) for name, (size, _) in TASKS.items() if "generate" in name},
             "matrix_product": matrix_product}
    if device == "cuda":
        tasks["device_memory"] = torch.cuda.max_memory_allocated
    return tasks


def our_side(side, device):
    """This project's training step, and its generation within one call: task -> a function that runs it once."""
    network, *options = side.split("+")
    import numpy as np
    import tensorflow as tf

    from cvae_tf.config import Config
    from cvae_tf.data.clips import Clips
    from cvae_tf.data.footage import Footage
    from cvae_tf.training.build import build_model

    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    config = Config(network=network, batch_size=BATCH, train_vi_len=CLIP, xla="xla" in options,
                    precision="mixed_bfloat16" if "mixed_bfloat16" in options else "float32")
    random = np.random.default_rng(0)
    pixels = np.uint8(random.integers(0, 256, (64, HEIGHT, WIDTH, 3)))
    clips = Clips(Footage(pixels, pixels, ((0, len(pixels)),)), CLIP, BATCH)
    model = build_model(config, clips)
    batch = {name: tf.constant(array) for name, array in clips.batch(0).items()}
    step, film = tf.function(model.train_step, autograph=False), tf.function(model.generate)

    def train(ratio):
        model.teacher_forcing_ratio.assign(ratio)
        float(step(batch)["loss"])

    def generate(films, length):
        film(tf.random.uniform((films, HEIGHT, WIDTH, 3)), tf.random.uniform((films, length, HEIGHT, WIDTH, 3)),
             tf.constant([0, 0])).numpy()

    def matrix_product(dtype="float32", tf32=True):
        n = 2048 if device == "cpu" else 8192
        tf.config.experimental.enable_tensor_float_32_execution(tf32)
        a = tf.cast(tf.random.uniform((n, n)), dtype)
        float((a @ a)[0, 0])
        began = time.perf_counter()
        float((a @ a)[0, 0])
        seconds = time.perf_counter() - began
        tf.config.experimental.enable_tensor_float_32_execution(True)
        return 2 * n**3 / seconds

    def device_copy():
        a = tf.zeros(2**28)
        float((a + 1)[0])
        began = time.perf_counter()
        float((a + 1)[0])
        return 8 * 2**28 / (time.perf_counter() - began)

    sizes = {name: size for name, (size, _) in TASKS.items() if "generate" in name} | LONG.get(network, {})
    tasks = {"forced": lambda: train(1.0), "free": lambda: train(0.0),
             **{name: lambda size=size: generate(*size) for name, size in sizes.items()},
             "matrix_product": matrix_product, "work": lambda: work_of(model.network)}
    if device == "gpu":
        tasks |= {"matrix_product_bfloat16": lambda: matrix_product("bfloat16"),
                  "matrix_product_float32": lambda: matrix_product(tf32=False), "copy": device_copy,
                  "device_memory": lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"]}
    return tasks


def exported(folder, **settings):
    """Export an untrained model of these settings, from another process, into ``folder``; returns its folder."""
    export = ("import json, sys; from cvae_tf.config import Config; from cvae_tf.inference.export import save_model; "
              "from cvae_tf.model.cvae import CVAE; from cvae_tf.training.build import build_network; "
              "config = Config(**json.loads(sys.argv[2])); "
              "save_model(CVAE(build_network(config)), sys.argv[1], config)")
    subprocess.run([sys.executable, "-c", export, f"{folder}/model", json.dumps(settings)], check=True,
                   env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    return f"{folder}/model"


def films_side():
    """Generation as ``predict.py`` does it, from an exported model of the default width, a film a thread."""
    import tempfile
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from cvae_tf.inference.exported_model import ExportedModel, use_one_thread_if_light

    with tempfile.TemporaryDirectory() as folder:
        path = exported(folder)
        use_one_thread_if_light(path)  # as the command predict does
        model = ExportedModel(path)
    random = np.random.default_rng(0)
    pool = ThreadPoolExecutor(model.films_at_once)

    def generate(films, length):
        first, *poses = random.random((1 + length, HEIGHT, WIDTH, 3), np.float32)
        poses = np.stack(poses)
        list(pool.map(lambda seed: model.generate(first, poses, seed), range(films)))

    return {name: lambda size=size: generate(*size) for name, size in LONG["unet_films"].items()}


def tasks_of(side, device):
    if side.startswith("torch"):
        tasks = torch_side(side == "torch_compile", device)
    else:
        tasks = films_side() if side == "unet_films" else our_side(side, device)
    return tasks | {"memory": lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def serve(make_tasks):
    """Run the tasks named on standard input, one a line; print what each returns, or the seconds that it took."""
    output, sys.stdout = sys.stdout, sys.stderr  # nothing else may print there
    tasks = make_tasks()
    print(json.dumps(sorted(tasks)), file=output, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        value = tasks[line.strip()]()
        print(json.dumps(time.perf_counter() - began if value is None else value), file=output, flush=True)


class Side:
    """A side at work in another process, that of ``command``; call it with the name of a task."""

    def __init__(self, *command):
        self.process = subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.tasks = self.answer()

    def ask(self, task):
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended with {self.process.wait()}")
        return json.loads(line)

    def __call__(self, task):
        self.ask(task)
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


# ---------------------------------------------------------------------- what a row takes at least

def work_of(network):
    """Of each part of a network for one frame: floating-point operations and bytes in and out of its convolutions."""
    import keras
    import tensorflow as tf

    calls, kept = [], {}

    def watched(original):
        def call(layer, x):
            y = original(layer, x)
            per_output = layer.kernel.shape[0] * layer.kernel.shape[1] * (layer.kernel.shape[2] if "Depth" not in
                                                                         type(layer).__name__ else 1)
            outputs = y.shape[1] * y.shape[2] * y.shape[3]
            size = x.shape[1] * x.shape[2] * x.shape[3] + outputs + layer.kernel.shape.num_elements()
            calls.append((2 * per_output * outputs, 4 * size))
            return y
        return call

    for layer in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D):
        kept[layer], layer.call = layer.call, watched(layer.call)
    try:
        frames, done = tf.zeros((1, 1, HEIGHT, WIDTH, 3)), {}

        def part(name, function):
            calls.clear()
            result = function()
            done[name] = [sum(column) for column in zip(*calls, strict=True)] if calls else [0, 0]
            return result

        poses = part("pose", lambda: network.encode_poses(frames))
        part("encode", lambda: network.frame_encoder(frames[0]))
        z, _ = part("posterior", lambda: network.predict_gaussian(network.gaussian_predictor, frames, poses))
        context = part("context", lambda: network.encode_context(frames[0]))
        now = tf.nest.map_structure(lambda x: x[0], (frames, network.with_context(poses, context), z))
        part("transition", lambda: network.transition(*now, context))
    finally:
        for layer, call in kept.items():
            layer.call = call
    return done


def work_of_row(parts, task):
    """Operations and bytes of a training step, or of a generated frame.

    A backward pass counts as two forward ones. What free running generates before it counts nothing: it is overhead.
    """
    each = lambda *names: [sum(parts[name][i] for name in names) for i in range(2)]  # noqa: E731
    if task.startswith("generate"):
        return each("pose", "transition")  # a frame
    a_frame, frames = each("pose", "posterior", "transition"), BATCH * (CLIP - 1)
    return [3 * (frames * a_frame[i] + BATCH * parts["context"][i]) for i in range(2)]


def copy_rate():
    """Bytes read and written in a second by copying an array that no cache holds."""
    import numpy as np

    a = np.ones(2**25)
    b = np.empty_like(a)
    began = time.perf_counter()
    np.copyto(b, a)
    return 2 * a.nbytes / (time.perf_counter() - began)


# ---------------------------------------------------------------------- the benchmark

def versions():
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "torch", "numpy")}


def processor():
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return names[0].partition(": ")[2]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def rows_of(device):
    """`ROWS` with each way to run them on ``device``."""
    for what, side, task, reach in ROWS:
        if device == "gpu" and side == "unet_films":
            side = "unet"  # a batch, and no threads
        ways = VARIANTS[device] if "training" in what else ("",)
        yield from ((what, side + way, task, reach) for way in ways)


def measure(device, repeats):
    """Seconds of every side and task, and the machine's rates, measured in turn."""
    sides = {}
    for name in dict.fromkeys(["torch", "torch_compile", "lab", "unet", *(side for _, side, _, _ in rows_of(device))]):
        try:
            sides[name] = Side(__file__, "--serve", name, "--device", device)
        except RuntimeError as error:
            print(f"{name}: {error}", flush=True)
    seconds = {(name, task): [] for name, side in sides.items() for task in TASKS
               if task in side.tasks and ("+" not in name or "generate" not in task)
               and (task != "generate_16" or name in ("torch", "unet", "unet_films"))}
    of_card = [task for task in sides["lab"].tasks if task.startswith("matrix_product_")]
    rates = {name: [] for name in ("matrix_product", "copy", *of_card)}
    for repeat in range(-1, repeats):  # the first does not count
        for name, task in list(seconds):
            try:
                taken = sides[name](task)
                if repeat < 0 and "generate" not in task:
                    taken = sides[name](task)
            except RuntimeError as error:
                print(f"{name}, {task}: does not work ({error})", flush=True)
                seconds = {key: value for key, value in seconds.items() if key[0] != name}
                sides.pop(name)
                break
            if repeat >= 0:
                seconds[name, task].append(taken)
        products = [sides[name]("matrix_product") for name in ("torch", "lab") for _ in range(5)]
        rates["matrix_product"].append(max(products))
        copying = copy_rate if device == "cpu" else lambda: sides["lab"]("copy")
        rates["copy"].append(max(copying() for _ in range(3)))
        for task in of_card:
            rates[task].append(max(sides["lab"](task) for _ in range(5)))
        print(f"repetition {repeat + 1} of {repeats}", flush=True)
    work = {name: sides[name]("work") for name in ("lab", "unet")}
    for side in sides.values():
        side.close()
    return seconds, rates, work


def peak_memory(side, device):
    """Bytes that a process of its own takes at its highest for training steps of both kinds alone.

    On a GPU: of the card's memory, by the library's own count.
    """
    worker = Side(__file__, "--serve", side, "--device", device)
    task_of = "device_memory" if device == "gpu" else "memory"
    before = worker(task_of)
    for task in ("forced", "free", "forced"):
        worker(task)
    peak = worker(task_of)
    worker.close()
    return {"before": before, "peak": peak}


def amount(side, task):
    """Clips or frames in a repetition."""
    size = LONG.get(side.partition("+")[0], {}).get(task, TASKS[task][0])
    return size if isinstance(size, int) else size[0] * size[1]


def table(seconds, rates, work, device):
    """The rows of the comparison, as dicts."""
    rows = []
    for what, side, task, reach in rows_of(device):
        if not seconds.get((side, task)):
            continue  # did not work, as `measure` has said
        product = statistics.median(rates["matrix_product_bfloat16" if "bfloat16" in side else "matrix_product"])
        copying = statistics.median(rates["copy"])
        unit = TASKS[task][1]
        speeds = {name: sorted(amount(name, task) / s for s in seconds[name, task])
                  for name in ("torch", "torch_compile", side) if seconds.get((name, task))}
        medians = {name: statistics.median(values) for name, values in speeds.items()}
        flops, size = work_of_row(work[side.partition("_")[0].partition("+")[0]], task)
        least = max(flops / product, size / copying)  # seconds of a repetition, or of a frame
        rate = medians[side] if unit == "frames" else medians[side] / BATCH
        rows.append({"row": what, "side": side, "unit": f"{unit}/s", "reach": reach,
                     "ratio": medians[side] / medians["torch"],
                     "speeds": {name: [medians[name], values[0], values[-1]] for name, values in speeds.items()},
                     "gigaflop": flops / 1e9, "megabytes": size / 1e6, "of_possible": rate * least})
        if "torch_compile" in medians:
            rows[-1]["ratio_to_compiled"] = medians[side] / medians["torch_compile"]
    return rows


def show(results):
    for name, values in results["rates"].items():
        print(f"\n{name}: {statistics.median(values) / 1e9:.1f} G{'B' if name == 'copy' else 'FLOP'}/s "
              f"({min(values) / 1e9:.1f} to {max(values) / 1e9:.1f})", end="")
    print()
    for row in results["rows"]:
        print(f"\n{row['row']}, {row['side']}: {row['ratio']:.2f} times PyTorch eager (to reach: {row['reach']})"
              + (f", {row['ratio_to_compiled']:.2f} times torch.compile" if "ratio_to_compiled" in row else ""))
        for name, (median, low, high) in row["speeds"].items():
            print(f"    {name:14} {median:9.3f} {row['unit']} ({low:.3f} to {high:.3f})")
        print(f"    {row['of_possible']:.0%} of what {row['gigaflop']:.3f} GFLOP and {row['megabytes']:.1f} MB allow")
    for name, memory in results["memory"].items():
        print(f"\npeak memory of training, {name}: {memory['peak'] / 1e6:.0f} MB "
              f"({memory['before'] / 1e6:.0f} MB of it before the first step)", end="")
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(lambda: tasks_of(args.serve, args.device))
        return
    results = {"processor": processor(), "cores": os.cpu_count(), "device": args.device,
               "python": sys.version.split()[0], **versions(), "repeats": args.repeats}
    print(json.dumps(results), flush=True)
    results["memory"] = {name: peak_memory(name, args.device) for name in ("torch", "lab", "unet")}
    print(json.dumps(results["memory"]), flush=True)
    seconds, results["rates"], work = measure(args.device, args.repeats)
    results["rows"] = table(seconds, results["rates"], work, args.device)
    results["seconds"] = {f"{name} {task}": values for (name, task), values in seconds.items()}
    if args.out:
        Path(args.out).write_text(json.dumps(results, indent=2) + "\n")
    show(results)


if __name__ == "__main__":
    main()
