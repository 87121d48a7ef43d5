"""Films from an exported model: of which input, how long, in parts, and how good."""

import csv
import shutil

import numpy as np
import pytest
from conftest import StandIn
from PIL import Image

from cvae_tf.config import Config
from cvae_tf.data.images import to_float
from cvae_tf.data.sequences import load_sequences
from cvae_tf.errors import InputError
from cvae_tf.evaluation.evaluate import evaluate
from cvae_tf.evaluation.metrics import psnr_per_frame
from cvae_tf.inference import driver
from cvae_tf.inference import predict as prediction
from cvae_tf.inference.predict import predict
from cvae_tf.studio import scene as studio


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree") / "data"
    studio.write_tree(root, 1, frame_size=(16, 32), length=40)
    return root


@pytest.fixture
def model(tmp_path):
    return StandIn(tmp_path / "stand_in")


def _frames(path):
    return [np.asarray(Image.open(file)) for file in sorted(path.iterdir())]


def test_without_an_input_a_model_is_shown_the_studio_that_it_knows(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(driver, "load_sequences", lambda *args, **options: [
        sequence.__class__(sequence.name, sequence.frames[:20], sequence.poses[:20])
        for sequence in load_sequences(*args, **options)])
    model.path.mkdir()
    for config, options in ((None, {}), (Config(studio_lamp=True, studio_seed=3), dict(seed=3, lamp=True))):
        if config:
            (model.path / "config.json").write_text(config.to_json())
        frames, poses = (to_float(x[:20]) for x in studio.sequence(0, 16, 32, **options))
        output = tmp_path / f"film{len(options)}"
        result = predict(model, output=output, scale=1)
        expected = model.generate(frames[0], poses[1:])
        assert result.path == output and result.frames == 20 == len(list(output.iterdir()))
        assert result.psnr == pytest.approx({"prediction": psnr_per_frame(frames[1:], expected).mean(),
                                             "copy-first": psnr_per_frame(frames[1:], frames[:1].repeat(19, 0)).mean()})
        shown = capsys.readouterr().out
        assert all(f"{name} {value:.2f} dB" in shown for name, value in result.psnr.items())


def test_a_film_in_parts_equals_one_at_once(model, tree, tmp_path, monkeypatch):
    options = dict(poses=tree / "val" / "val_label", truth=tree / "val" / "val_img", seed=3, samples=2, scale=1)
    at_once = predict(model, output=tmp_path / "once", **options)
    assert model.lengths == [39, 39]
    monkeypatch.setattr(prediction, "PART", 16)
    in_parts = predict(model, output=tmp_path / "parts", **options)
    assert sorted(model.lengths[2:]) == [7, 7, 16, 16, 16, 16]
    assert at_once.psnr == pytest.approx(in_parts.psnr) and list(at_once.psnr) == ["sample 1", "sample 2", "copy-first"]
    for one, other in zip(_frames(tmp_path / "once"), _frames(tmp_path / "parts"), strict=True):
        np.testing.assert_array_equal(one, other)
    first = _frames(tmp_path / "once")[0]  # truth, pose and both samples, a column between them
    np.testing.assert_array_equal(first[:, :32], first[:, 66:98])  # each sample begins with the given frame
    np.testing.assert_array_equal(first[:, :32], first[:, 99:])
    rows = list(csv.DictReader((tmp_path / "once.csv").read_text().splitlines()))
    assert len(rows) == 39 and np.mean([float(row["psnr_sample_2"]) for row in rows]) == pytest.approx(
        at_once.psnr["sample 2"], abs=1e-4)
    assert (tmp_path / "once.png").read_bytes()[:4] == b"\x89PNG"


def test_a_first_frame_without_a_pose_of_its_own_precedes_the_film(model, tree, tmp_path):
    first = tmp_path / "start.png"
    shutil.copy(next((tree / "val" / "val_img").iterdir()), first)
    result = predict(model, first, tree / "val" / "val_label", output=tmp_path / "film", scale=2)
    assert model.lengths == [40] and result.frames == 40 and result.psnr == {}
    assert {frame.shape for frame in _frames(tmp_path / "film")} == {(32, 64, 3)}
    assert not (tmp_path / "film.csv").exists()


def test_prediction_and_evaluation_agree(model, tree, tmp_path):
    folders = dict(poses=tree / "val" / "val_label", truth=tree / "val" / "val_img")
    done = predict(model, **folders, output=tmp_path / "film.gif")
    report = evaluate(model, tree, samples=1, out=tmp_path / "report", pose_detector=False)
    for name, row in (("prediction", "prior"), ("copy-first", "copy_first")):
        assert done.psnr[name] == pytest.approx(report["mean"][row]["psnr"], abs=1e-9)


@pytest.mark.parametrize("options, message", [
    (dict(samples=0), "--samples must be from 1 to 64, received 0"),
    (dict(seed=2**31 - 1, samples=2), "--seed must be from 0"), (dict(temperature=-1), "--temperature"),
    (dict(fps=0), "--fps"), (dict(scale=33), "--scale"),
    (dict(output="film.avi"), "--output must end in"), (dict(poses="poses"), "--poses needs the first frame"),
    (dict(truth="frames"), "need --poses"), (dict(poses="studio", first_frame="f.png"), "need --poses"),
    (dict(poses="poses", truth="frames", output="frames/frame1.gif"),
     "--output frames/frame1.gif: lies in --truth frames"),
    (dict(poses="poses", truth="frames", first_frame="first.png", output="first.gif"),
     "--output first.png: is the same as --first_frame first.png"),
    (dict(output="poses"), "is there already"),
    (dict(poses="poses", truth="lacking"), "no true frame frame1.png"),
    (dict(poses="poses", first_frame="nowhere.png"), "nowhere.png"),
    (dict(poses="lacking", first_frame="lacking/frame2.png"), "give at least one more"),
    (dict(model="nowhere"), "nowhere: no SavedModel"),
])
def test_bad_input_is_refused_and_nothing_is_written(options, message, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("poses/frame1.png", "poses/frame2.png", "frames/frame1.png", "frames/frame2.png", "lacking/frame2.png",
                 "first.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 16)).save(tmp_path / file)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message):
        predict(**{"model": model, **options})
    assert sorted(tmp_path.rglob("*")) == before
