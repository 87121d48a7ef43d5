"""Kill training runs again and again, and compare their ends: ``python benchmarks/crash_test.py [--kills 50]``.

One run is left alone. Others, with the same settings, are killed (SIGKILL) and started again until they finish. Half of
the kills come at random moments; the others while a checkpoint, the metrics, an exported model or decoded footage is
being written, which an unfinished file on the disk shows. At the end these must be equal to the bit: the last
checkpoint (weights, optimizer, counters), the weights of both exported models, the metrics but the seconds, the PSNR of
each frame, the films, and the list of files. The exit code is 1 if anything differs.
"""

import argparse
import csv
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cvae_tf import errors
from cvae_tf.errors import InputError
from cvae_tf.studio import scene as studio
from cvae_tf.training.checkpoint import CheckpointFolder

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ["--preset", "debug", "--width", "4", "--frame_H", "16", "--frame_W", "32", "--num_epoch", "6",
            "--steps_per_epoch", "6", "--val_every", "3", "--val_vi_len", "12", "--tfr", "0.5", "--checkpoint_minutes",
            "0.005"]
# Moments to kill at: a folder, relative to that of the test, and the name of the unfinished file that shows the moment.
MOMENTS = {"checkpoint": ("run/checkpoints", r"\.step_.*"), "metrics": ("run", r"\.metrics\.csv\..*"),
           "best model": ("", r"\.model\.\d+\..*"), "last model": ("run", r"\.last_model\.\d+\..*"),
           "cache": ("data/.cvae_tf_cache", r"\..*\.tmp")}


def start(folder):
    """Start or continue the run in ``folder``."""
    command = [sys.executable, str(ROOT / "train.py"), *SETTINGS, "--data_dir", "data", "--run_dir", "run",
               "--export_dir", "model"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"})


def wait_for(process, folder, moment, delay):
    """Wait until the process writes the file of ``moment``, and ``delay`` seconds more; False if it ends before."""
    place, pattern = MOMENTS[moment]
    while process.poll() is None:
        try:
            seen = any(re.fullmatch(pattern, name) for name in os.listdir(folder / place))
        except FileNotFoundError:
            seen = False
        if seen:
            time.sleep(delay)
            return True
        time.sleep(0.0005)
    return False


def finish(process, folder):
    """Wait for the end of a run.

    Raises:
        InputError: it failed.
    """
    _, text = process.communicate()
    if process.returncode:
        raise InputError(f"{folder}: the run ended with exit code {process.returncode}: {text[-2000:]}")


def left_by(folder):
    """All results of a run that must be equal, by name."""
    run = folder / "run"
    step, arrays = CheckpointFolder(run / "checkpoints").load()
    del arrays["run/rows"]  # of the metrics, compared below without their seconds
    found = {f"checkpoint {step} {name}": array.tobytes() for name, array in arrays.items()}
    for model in (folder / "model", run / "last_model"):
        found[f"weights of {model.name}"] = (model / "variables" / "variables.data-00000-of-00001").read_bytes()
    with open(run / "metrics.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            found[f"metrics of epoch {row['epoch']}"] = {name: row[name] for name in row if name != "seconds"}
    found["psnr_per_frame.csv"] = (run / "psnr_per_frame.csv").read_text()
    found["films"] = {path.name: path.read_bytes() for path in (run / "samples").iterdir()}
    found["files"] = sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                            if path.is_file() and not {"tensorboard", "checkpoints", "data"} & set(path.parts))
    return found


def new_run(folder, data):
    folder.mkdir()
    shutil.copytree(data, folder / "data", copy_function=shutil.copy2)
    return folder


def main():
    parser = argparse.ArgumentParser(description="Kill training runs, continue them, and compare them with one left "
                                     "alone.")
    parser.add_argument("--kills", type=int, default=50, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        studio.write_tree(place / "data", train=1, length=60, frame_size=(16, 32))
        alone = new_run(place / "alone", place / "data")
        began = time.monotonic()
        finish(start(alone), alone)
        seconds = time.monotonic() - began
        expected = left_by(alone)
        print(f"left alone: {seconds:.0f} s, {len(expected)} things to compare", flush=True)
        kills = {moment: 0 for moment in ("random", *MOMENTS)}
        runs = different = 0
        while sum(kills.values()) < args.kills:
            runs += 1
            folder, starts = new_run(place / f"run{runs}", place / "data"), 0
            while True:
                starts += 1
                kind = min(kills, key=lambda moment: (kills[moment] - (moment == "random") * args.kills // 2,
                                                      chance.random()))
                if kind == "cache":
                    shutil.rmtree(folder / "data" / ".cvae_tf_cache", ignore_errors=True)
                process = start(folder)
                if sum(kills.values()) >= args.kills:
                    finish(process, folder)
                    break
                if kind == "random":
                    try:
                        process.wait(chance.uniform(0, seconds))
                    except subprocess.TimeoutExpired:
                        pass
                else:
                    wait_for(process, folder, kind, chance.choice([0, 0, 0.001, 0.005, 0.02, 0.1]))
                if process.poll() is not None:  # it was quicker
                    finish(process, folder)
                    break
                process.kill()
                process.communicate()
                kills[kind] += 1
            found = left_by(folder)
            wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            different += bool(wrong)
            verdict = f"DIFFERS in {', '.join(wrong[:5])}" if wrong else "equal"
            print(f"run {runs}: started {starts} times; {verdict}", flush=True)
            shutil.rmtree(folder)
    print(f"killed {sum(kills.values())} times ({', '.join(f'{kind} {n}' for kind, n in kills.items())}); "
          f"{runs - different} of {runs} runs ended equal")
    sys.exit(bool(different))


if __name__ == "__main__":
    errors.run(main)
