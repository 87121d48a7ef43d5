"""How time and memory grow: ``python benchmarks/growth.py [--out DIR]``.

With the length of the clips (8 to 128 frames), the length of a film (630 to 63,000 frames, from poses to the GIF on
the disk) and the size of the frames (32x64 to 128x256); how fast a data set of 1,000,000 frames opens and feeds, how
fast the programs start, and how fast the lab's PNG files of 1024x512 are decoded. Every
measurement runs in a process of its own, whose highest memory is that measurement's. The default unet, on random
pictures; seconds are medians of `REPEATS` after a warm-up, films are made once.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

REPEATS = 5
CLIPS = (8, 16, 32, 64, 128)
FILMS = (630, 6_300, 63_000)
SIZES = ((32, 64), (64, 128), (128, 256))


def peak():
    """Bytes that this process has taken at its highest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seconds_of(function):
    times = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return [statistics.median(times[1:]), min(times[1:]), max(times[1:])]


def training(length, height, width):
    """Seconds of a free-running training step of four clips."""
    import numpy as np
    import tensorflow as tf

    from cvae_tf.config import Config
    from cvae_tf.data.clips import Clips
    from cvae_tf.data.footage import Footage
    from cvae_tf.training.build import build_model

    pixels = np.uint8(np.random.default_rng(0).integers(0, 256, (length + 8, height, width, 3)))
    clips = Clips(Footage(pixels, pixels, ((0, len(pixels)),)), length, 4)
    model = build_model(Config(frame_H=height, frame_W=width, train_vi_len=length), clips)
    batch = {name: tf.constant(array) for name, array in clips.batch(0).items()}
    step = tf.function(model.train_step, autograph=False)
    step(batch)
    return {"seconds": seconds_of(lambda: float(step(batch)["loss"])), "peak": peak()}


def _loaded(path):
    from cvae_tf.inference.exported_model import ExportedModel, use_one_thread_if_light

    use_one_thread_if_light(path)  # as the command predict does
    return ExportedModel(path)


def film(length, height=32, width=64):
    """Seconds from poses to a GIF of ``length`` frames, without starting up."""
    import numpy as np
    from throughput import exported

    from cvae_tf.data.film import gif_writer
    from cvae_tf.inference.predict import PART

    with tempfile.TemporaryDirectory() as folder:
        model = _loaded(exported(folder, frame_H=height, frame_W=width))
        random = np.random.default_rng(0)
        poses = random.random((PART, height, width, 3), np.float32)
        model.film(poses[0])(poses)  # warm
        began, before, extend = time.perf_counter(), peak(), model.film(poses[0])
        with gif_writer(Path(folder) / "film.gif") as append:
            for start in range(0, length, PART):
                append(extend(poses[:length - start]))
        return {"seconds": [time.perf_counter() - began] * 3, "before": before, "peak": peak()}


def generation(height, width):
    """Seconds to generate 315 frames of one film."""
    import numpy as np
    from throughput import exported

    with tempfile.TemporaryDirectory() as folder:
        model = _loaded(exported(folder, frame_H=height, frame_W=width))
        poses = np.random.default_rng(0).random((315, height, width, 3), np.float32)
        model.generate(poses[0], poses)
        return {"seconds": seconds_of(lambda: model.generate(poses[0], poses)), "peak": peak()}


def decoding(count, ours):
    """Seconds to decode ``count`` PNG files of 1024x512 at 32x64: with all cores, or in a plain loop."""
    import numpy as np
    from PIL import Image

    from cvae_tf.data import images
    from cvae_tf.studio import scene as studio

    frames, _ = studio.sequence(0, 32, 64, length=32)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.png" for i in range(count)]
        for path, frame in zip(paths, np.resize(frames, (count, 32, 64, 3)), strict=True):
            Image.fromarray(frame).resize((1024, 512), Image.Resampling.BICUBIC).save(path)

        def loop():
            for path in paths:
                with Image.open(path) as image:
                    np.asarray(image.convert("RGB").resize((64, 32), Image.Resampling.BILINEAR))

        run = (lambda: images.read_images(paths, 32, 64)) if ours else loop
        return {"seconds": seconds_of(run), "peak": peak()}


def feeding(count):
    """Seconds to open a data set of ``count`` frames that no memory holds, and for a batch of four clips from it."""
    import numpy as np

    from cvae_tf.config import Config
    from cvae_tf.training.build import load_data

    with tempfile.TemporaryDirectory() as folder:
        split, val = Path(folder) / "train", Path(folder) / "val"
        split.mkdir()
        val.mkdir()
        block = np.uint8(np.random.default_rng(0).integers(0, 256, (1000, 32, 64, 3)))
        for kind in ("img", "label"):
            path = split / f"train_{kind}.npy"
            array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 32, 64, 3))
            for start in range(0, count, len(block)):
                array[start:start + len(block)] = block[:count - start]
            array.flush()
            del array
            with open(path) as stream:  # from the disk, not from what the system still holds of it
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for kind in ("img", "label"):
            np.save(val / f"val_{kind}.npy", block)
        config, began = Config(data_dir=folder), time.perf_counter()
        clips = load_data(config).clips
        opened = time.perf_counter() - began
        batches = clips.dataset(0, 10_000).as_numpy_iterator()
        next(batches)

        def fifty():
            for _ in range(50):
                next(batches)

        return {"seconds": [x / 50 for x in seconds_of(fifty)], "opened": opened, "peak": peak()}


def starting(what):
    """Seconds from launching a program to its end, or to the first training step; a process of its own each time."""
    from cvae_tf.studio import scene as studio

    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        train = [root / "train.py", "--data_dir", f"{folder}/data", "--num_epoch", "2", "--steps_per_epoch", "1",
                 "--val_every", "2", "--run_dir", f"{folder}/run", "--export_dir", f"{folder}/model", "--fresh"]
        command = {"import": ["-c", "import tensorflow"], "help": [root / "train.py", "--help"], "train": train,
                   "predict": [root / "predict.py", "--model", root / "saved_models" / "studio",
                               "--output", f"{folder}/film.gif"]}[what]
        if what == "train":
            studio.write_tree(Path(folder) / "data", 3)

        def run():
            with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL) as program:
                seen = read = b"nothing yet"
                while read and b" 1/2 " not in seen:  # the line of the first epoch
                    read = program.stdout.read1()
                    seen += read
                program.kill()  # the training, which has taken its first step; the others have ended

        return {"seconds": seconds_of(run), "peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024}


# Name -> function and its arguments.
MEASUREMENTS = {
    **{f"training step, clips of {n} frames": (training, n, 32, 64) for n in CLIPS},
    **{f"film of {n} frames": (film, n) for n in FILMS},
    **{f"training step, {h}x{w}": (training, 16, h, w) for h, w in SIZES},
    **{f"generation of 315 frames, {h}x{w}": (generation, h, w) for h, w in SIZES},
    "batch of a data set of 1,000,000 frames": (feeding, 1_000_000),
    "import tensorflow": (starting, "import"), "train.py --help": (starting, "help"),
    "predict.py to a GIF of 630 frames": (starting, "predict"), "train.py to its first step": (starting, "train"),
    "decoding 200 files, all cores": (decoding, 200, True), "decoding 200 files, plain loop": (decoding, 200, False)}


def plot(results, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    sizes = ["{}x{}".format(*size) for size in SIZES]
    series = (("training step, clips of {} frames", CLIPS, "frames in a clip", "training step, batch 4"),
              ("film of {} frames", FILMS, "frames of the film", "poses to GIF"),
              ("training step, {}", sizes, "size of a frame", "training step, batch 4"))
    for axis, (name, values, label, title) in zip(axes, series, strict=True):
        at = values if label != "size of a frame" else [h * w for h, w in SIZES]
        found = [results[name.format(value)] for value in values]
        axis.loglog(at, [one["seconds"][0] for one in found], "o-", color="tab:blue")
        axis.set(xlabel=label, ylabel="seconds", title=title)
        axis.set_xticks(at, [f"{value:,}" if isinstance(value, int) else value for value in values])
        axis.set_xticks([], minor=True)
        memory = axis.twinx()
        memory.plot(at, [one["peak"] / 1e9 for one in found], "s--", color="tab:orange")
        memory.set_ylim(0, 1.2 * max(one["peak"] / 1e9 for one in found))
        memory.set_ylabel("peak memory, GB (dashed)")
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="growth", help="folder for growth.json and growth.png [growth]")
    parser.add_argument("--one", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        function, *values = MEASUREMENTS[args.one]
        print(json.dumps(function(*values)))
        return
    results = {}
    for name in MEASUREMENTS:
        ended = subprocess.run([sys.executable, __file__, "--one", name], stdout=subprocess.PIPE, text=True, check=True)
        results[name] = one = json.loads(ended.stdout.splitlines()[-1])
        median, low, high = one["seconds"]
        more = "".join(f", {key} {one[key]:.4g}" for key in sorted(one.keys() - {"seconds", "peak"}))
        print(f"{name:42} {median:9.4f} s ({low:.4f} to {high:.4f})   peak {one['peak'] / 1e6:6.0f} MB{more}",
              flush=True)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "growth.json").write_text(json.dumps(results, indent=2) + "\n")
    plot(results, out / "growth.png")


if __name__ == "__main__":
    main()
