"""The whole way of a person with a video, with the programs as a user starts them."""

import json

import numpy as np
import pytest
from conftest import run_program

from cvae_tf.data.film import film_writer
from cvae_tf.studio import scene as studio


@pytest.mark.slow
def test_from_a_video_to_a_film_of_another_motion(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    for number in (1, 2):
        with film_writer(tmp_path / f"{number}.mp4", 20) as append:
            append(studio.sequence(number, 256, 448, length=80)[0])
    ends = [run_program("-m", "cvae_tf", *words, cwd=tmp_path) for words in (
        ("prepare", "1.mp4", "--out", "me", "--height", "32"),
        ("train", "--data_dir", "me", "--preset", "best", "--num_epoch", "8", "--steps_per_epoch", "20", "--width", "8",
         "--val_every", "4", "--run_dir", "run", "--export_dir", "model"),
        ("predict", "--model", "model", "--poses", "2.mp4", "--retarget", "--output", "film.npz"),
        ("predict", "--model", "model", "--poses", "me/val/val_label", "--truth", "me/val/val_img", "--output",
         "own.gif"),
        ("evaluate", "--model", "model", "--data_dir", "me", "--samples", "1", "--pose_detector", "--out", "report"))]
    for end in ends:
        assert end.returncode == 0, end.stderr
    record = json.loads((tmp_path / "me" / "prepare.json").read_text())
    height, width = record["frame_size"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["frame_H"], config["frame_W"]) == (height, width)  # without a flag
    with np.load(tmp_path / "film.npz") as film:
        assert film["frames"].shape == (80, height, width, 3)
        # The person moves: the film is no still picture, and its background is the room of the training video.
        assert film["frames"].astype(float).std(axis=0).max() > 10
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["limbs"]["searched_frames"] >= 10 and "truth" in report["limbs"]["rows"]
    refused = run_program("-m", "cvae_tf", "train", "--data_dir", "me", "--frame_H", "64", "--dry_run", cwd=tmp_path)
    assert refused.returncode == 2 and "--frame_H" in refused.stderr
