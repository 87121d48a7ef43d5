"""PSNR against minutes of training: ``python benchmarks/quality_for_time.py --data_dir LAB [--together]``.

`best` from scratch beside the lab's template in PyTorch (`torch_lab.py`, eager): the mean PSNR of free running over the
validation sequence, z from the prior, after every so many minutes of training steps; starting and validating do not
count. Each side in a process of its own, a minute in turn; ``--together`` gives each one half of the cores instead and
takes half the time. `best` lowers its learning rate over ``--num_epoch`` epochs: choose as many as fit the minutes.

The template trains as its report found best and as published solutions do: batches of 2 clips of 16 frames, Adam at
1e-3, free running. With its own schedule, true frames would be fed in all of these minutes, which scores far lower.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

TURN = 60  # seconds of training in a turn
SIDES = ("best", "template")


def _for_a_turn(step):
    """Take steps for one turn; returns ``{steps, seconds}``."""
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < TURN and step():
        steps += 1
    return {"steps": steps, "seconds": time.perf_counter() - began}


def _footage(config):
    from cvae_tf.data.images import to_float
    from cvae_tf.training.build import load_data

    data = load_data(config)
    return data.clips, *map(to_float, data.validation)


def best(config, model_folder):
    """The preset, step after step: its tasks by name. The last exports it to ``model_folder``."""
    import numpy as np
    import tensorflow as tf

    from cvae_tf.evaluation.metrics import psnr_per_frame
    from cvae_tf.inference.export import save_model
    from cvae_tf.training.build import build_model, epoch_schedules
    from cvae_tf.training.callbacks import EpochSchedules

    clips, frames, poses = _footage(config)
    model = build_model(config, clips)
    film = tf.function(model.generate)
    schedules = EpochSchedules(**epoch_schedules(config))
    schedules.set_model(model)
    train_step = tf.function(model.train_step, autograph=False)
    batches = enumerate(clips.dataset(0, clips.first_step(config.num_epoch)))

    def step():
        number, batch = next(batches, (None, None))
        if number is None:
            return False
        if number == clips.first_step(clips.epoch_of(number)):
            schedules.on_epoch_begin(clips.epoch_of(number))
        train_step(batch)
        return True

    def validate():
        prediction = film(frames[None, 0], poses[None, 1:], tf.constant([0, 0]))[0].numpy()
        return float(np.mean(psnr_per_frame(frames[1:], prediction)))

    def export():
        save_model(model, model_folder, config)
        return True

    validate()
    train_step.get_concrete_function(clips.dataset(0, 1).element_spec)  # building graphs does not count
    return {"train": lambda: _for_a_turn(step), "validate": validate, "export": export}


def template(config, model_folder):
    """The lab's network and loop: its tasks by name; it has nothing to export."""
    import numpy as np
    import torch
    import torch_lab

    from cvae_tf.data.clips import Clips
    from cvae_tf.data.images import to_float
    from cvae_tf.evaluation.metrics import psnr_per_frame

    clips, frames, poses = _footage(config)
    clips = Clips(clips.footage, config.train_vi_len, 2, context="clip", seed=config.seed)
    torch.manual_seed(config.seed)
    model = torch_lab.LabModel().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    length, steps = config.train_vi_len - 1, 0
    planes = lambda array: torch.from_numpy(np.moveaxis(array, -1, -3).copy())  # noqa: E731

    def step():
        nonlocal steps
        batch = clips.batch(steps)
        clip, clip_poses = (to_float(batch[name]).swapaxes(0, 1) for name in ("frames", "poses"))
        eps = torch.randn(length, 2, 12, *frames.shape[1:3])
        torch_lab.train_step(model, optimizer, planes(clip), planes(clip_poses), eps, [False] * length, 1e-3)
        steps += 1
        return True

    def validate():
        model.eval()
        z = torch.randn(len(poses) - 1, 1, 12, *frames.shape[1:3])
        film = torch_lab.generate(model, planes(frames[:1]), planes(poses[1:, None]), z)
        model.train()
        return float(np.mean(psnr_per_frame(frames[1:], np.moveaxis(film[:, 0].numpy(), -3, -1))))

    return {"train": lambda: _for_a_turn(step), "validate": validate}


def _answers(sides, task, together):
    """What each side answers to ``task``: one after the other, or all at work at once."""
    if not together:
        return [(name, side(task)) for name, side in sides.items()]
    for side in sides.values():
        side.ask(task)
    return [(name, side.answer()) for name, side in sides.items()]


def _run(args):
    """Train all sides; returns for each a list of ``{minutes, steps, psnr}``."""
    from throughput import Side

    flags = [f"--out={args.out}", f"--data_dir={args.data_dir}", f"--num_epoch={args.num_epoch}", f"--seed={args.seed}"]
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    sides = {}
    for name, share in zip(SIDES, (cores[:half], cores[half:]), strict=True):
        on = ["--cores", ",".join(map(str, share if args.together else cores))]
        sides[name] = Side(__file__, "--serve", name, *flags, *on)
    curves = {name: [] for name in sides}
    done = dict.fromkeys(sides, (0.0, 0))
    for turn in range(1, 1 + args.minutes * 60 // TURN):
        task = ["train"] + ["validate"] * (turn * TURN % (60 * args.every) == 0)
        for word in task:
            for name, answer in _answers(sides, word, args.together):
                seconds, steps = done[name]
                if word == "train":
                    done[name] = seconds + answer["seconds"], steps + answer["steps"]
                    continue
                curves[name].append({"minutes": seconds / 60, "steps": steps, "psnr": answer})
                print(f"{name}: {seconds / 60:.1f} minutes, {steps} steps, {answer:.2f} dB", flush=True)
    sides["best"]("export")
    for side in sides.values():
        side.close()
    return curves


def plot(curves, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5.5, 3.2), layout="constrained")
    for name, points in curves.items():
        axis.plot([point["minutes"] for point in points], [point["psnr"] for point in points], "o-", label=name)
    axis.set(xlabel="minutes of training", ylabel="PSNR, z from the prior (dB)")
    axis.legend()
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", default="studio")
    parser.add_argument("--minutes", type=int, default=15)
    parser.add_argument("--every", type=int, default=5, help="minutes between validations")
    parser.add_argument("--num_epoch", type=int, default=70, help="of best")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", action="store_true", help="both at once, each on half of the cores")
    parser.add_argument("--out", default="quality_for_time", help="folder for .json, .png and the exported best")
    parser.add_argument("--cores", help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        from throughput import serve

        from cvae_tf.config import PRESETS, Config

        os.sched_setaffinity(0, map(int, args.cores.split(",")))  # before the libraries count the cores
        config = Config(**PRESETS["best"] | {"preset": "best", "data_dir": args.data_dir, "seed": args.seed,
                                             "num_epoch": args.num_epoch})
        serve(lambda: globals()[args.serve](config, Path(args.out) / "best"))
        return
    curves = _run(args)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "quality_for_time.json").write_text(json.dumps(curves, indent=2) + "\n")
    plot(curves, out / "quality_for_time.png")


if __name__ == "__main__":
    main()
