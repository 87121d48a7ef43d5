"""How fast this machine trains and generates: ``python benchmarks/step_time.py [flags of train.py]``.

Times the training step (teacher-forced and free-running) and the generation of a 630-frame film of the configuration
that the flags describe, on random pictures: median, lowest and highest of ``REPEATS`` after warm-up.
"""

import os
import platform
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np
import tensorflow as tf

from cvae_tf import errors
from cvae_tf.cli import train_config
from cvae_tf.data.clips import Clips
from cvae_tf.data.footage import Footage
from cvae_tf.training.build import build_model

REPEATS = 7


def measure(function):
    """Seconds of each of `REPEATS` calls, after two that do not count."""
    times = []
    for i in range(2 + REPEATS):
        began = time.perf_counter()
        function()
        if i > 1:
            times.append(time.perf_counter() - began)
    return times


def report(name, times, amount, unit):
    median = statistics.median(times)
    print(f"{name:34} {median * 1e3:9.1f} ms ({min(times) * 1e3:.1f} to {max(times) * 1e3:.1f})   "
          f"{amount / median:9.1f} {unit}/s")


def main():
    config, *_ = train_config(sys.argv[1:])
    random = np.random.default_rng(0)
    pictures = np.uint8(random.integers(0, 256, (64 + config.train_vi_len, config.frame_H, config.frame_W, 3)))
    clips = Clips(Footage(pictures, pictures, ((0, len(pictures)),)), config.train_vi_len, config.batch_size)
    model = build_model(config, clips)
    batch = {name: tf.constant(array) for name, array in clips.batch(0).items()}
    devices = [device.name for device in tf.config.list_physical_devices()]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {', '.join(devices)}; "
          f"TensorFlow {tf.__version__}, Keras {keras.__version__}")
    print(f"network {config.network}, {model.trainable_parameters:,} parameters, batch {config.batch_size}, "
          f"{config.train_vi_len} frames of {config.frame_H}x{config.frame_W}")
    step = tf.function(model.train_step, autograph=False)
    for name, ratio in (("teacher-forced", 1.0), ("free-running", 0.0)):
        model.teacher_forcing_ratio.assign(ratio)
        report(f"training step, {name}", measure(lambda: float(step(batch)["loss"])), config.batch_size, "clips")
    first, poses = (tf.constant(random.random((1, *shape, config.frame_H, config.frame_W, 3), np.float32))
                    for shape in ((), (630,)))
    generate = tf.function(model.generate)
    report("generation of 630 frames", measure(lambda: generate(first, poses, tf.constant([0, 0])).numpy()), 630,
           "frames")


if __name__ == "__main__":
    errors.run(main)
