"""What drives a film: videos, key points and motion capture; and what a model keeps of its footage."""

import json

import numpy as np
import pytest
from conftest import StandIn
from PIL import Image

from cvae_tf.config import Config
from cvae_tf.data.film import film_writer
from cvae_tf.data.footage import load_footage
from cvae_tf.errors import InputError
from cvae_tf.inference import driver, origin
from cvae_tf.inference.predict import predict
from cvae_tf.pose import retarget
from cvae_tf.pose.keypoints import KeyPoints
from cvae_tf.pose.skeleton import LAB, STUDIO, draw
from cvae_tf.preparation import track
from cvae_tf.studio import scene as studio

PERSON = studio.key_points(1, 96, 192, length=24)


@pytest.fixture
def model(tmp_path):
    """A model of 16x32 pixels that keeps the studio's first frame and person."""
    path = tmp_path / "model"
    path.mkdir()
    origin.write_origin(path, origin.origin_of(load_footage(frame_size=(16, 32), max_frames=64).train, "studio"))
    return StandIn(path)


@pytest.fixture
def walk(tmp_path):
    """Key points of 24 frames in 192x96 pixels, as an archive; its frame rate is the studio's."""
    path = tmp_path / "walk.npz"
    points = np.concatenate([PERSON.points, PERSON.confidence[..., None]], -1)
    np.savez(path, points=points, size=(192, 96), fps=20)
    return path


def test_what_a_model_keeps_of_its_footage(model, tmp_path):
    found = origin.read_origin(model.path)
    frames, poses = studio.sequence(1, 16, 32, length=64)
    first = next(t for t in range(64) if poses[t].min() < 255)
    np.testing.assert_array_equal(found.first_frame, frames[first])
    assert (found.style, found.fps) == ("studio", 20)
    assert found.person == retarget.measure(studio.key_points(1, 16, 32))
    assert origin.read_origin(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"style": "cubism", "fps": 20, "person": null}',
                                     '{"style": "lab", "fps": NaN, "person": null}',
                                     '{"style": "lab", "fps": 20, "person": {"near_ground": 1}}'])
def test_a_damaged_description_is_refused(content, model):
    (model.path / origin.FOOTAGE).write_text(content)
    with pytest.raises(InputError, match=origin.FOOTAGE):
        origin.read_origin(model.path)


def test_key_points_are_drawn_in_the_models_style_at_its_size(model, walk):
    found = driver.from_key_points(model, None, walk)
    assert (found.length, found.given, found.fps) == (24, 0, 20)
    poses, truth = found.read(slice(4, 9))
    scaled = track.clean(PERSON, 5).cropped((0, 0, 192, 96), (32, 16))  # of the same shape: nothing is cut
    np.testing.assert_array_equal(np.rint(poses * 255), draw(scaled[4:9].joints(), 16, 32, STUDIO))
    assert truth is None
    np.testing.assert_array_equal(found.first_frame, np.float32(origin.read_origin(model.path).first_frame) / 255)


def test_a_model_without_a_description_draws_as_the_lab_does(tmp_path, walk):
    Image.new("RGB", (32, 16)).save(tmp_path / "first.png")
    poses, _ = driver.from_key_points(StandIn(tmp_path), tmp_path / "first.png", walk).read(slice(0, 3))
    scaled = track.clean(PERSON, 5).cropped((0, 0, 192, 96), (32, 16))
    np.testing.assert_array_equal(np.rint(poses * 255), draw(scaled[:3].joints(), 16, 32, LAB))
    (tmp_path / "config.json").write_text(Config().to_json())  # one of before, trained on the studio
    poses, _ = driver.from_key_points(StandIn(tmp_path), tmp_path / "first.png", walk).read(slice(0, 3))
    np.testing.assert_array_equal(np.rint(poses * 255), draw(scaled[:3].joints(), 16, 32, STUDIO))
    with pytest.raises(InputError, match="--first_frame"):
        driver.from_key_points(StandIn(tmp_path), None, walk)
    with pytest.raises(InputError, match="--retarget"):
        driver.from_key_points(StandIn(tmp_path), tmp_path / "first.png", walk, fit="place")


@pytest.mark.parametrize("picture, box", [((64, 48), (-16, 0, 96, 48)), ((192, 48), (48, 0, 96, 48)),
                                          ((96, 48), (0, 0, 96, 48))])
def test_another_shape_is_cut_or_widened_at_the_sides(picture, box):
    assert driver._same_shape(picture, (32, 16)) == pytest.approx(box)


@pytest.mark.parametrize("fit", ["place", "limbs"])
def test_retargeting_puts_the_driver_in_the_place_of_the_models_person(fit, model, tmp_path):
    small = PERSON.cropped((0, 0, 192, 96), (96, 48))  # seen at half the size, farther up and to the left
    moved = KeyPoints(small.points + np.float32([5, -4]), small.confidence, (192, 96), 20)
    path = tmp_path / "small.npz"
    np.savez(path, points=np.concatenate([moved.points, moved.confidence[..., None]], -1), size=(192, 96), fps=20)
    target = origin.read_origin(model.path).person
    found = driver.from_key_points(model, None, path, fit=fit)
    moved = track.clean(moved, 5)
    expected = retarget.retarget(moved, retarget.measure(moved), target, (32, 16), fit == "limbs")
    np.testing.assert_array_equal(np.rint(found.read(slice(0, 24))[0] * 255), draw(expected.joints(), 16, 32, STUDIO))
    ankle = np.nanmax(expected.joints()["left_ankle"][:, 1]) / 16
    assert target.far_ground - 0.1 < ankle < target.near_ground + 0.1


def test_a_film_of_a_video_shows_driver_pose_and_result(model, tmp_path, monkeypatch):
    pytest.importorskip("imageio_ffmpeg")
    video = tmp_path / "me.mp4"
    with film_writer(video, 20) as append:
        append(studio.sequence(1, 96, 192, length=24)[0])
    known = iter(range(24))

    class Known:
        state = None, False

        def __call__(self, frame):
            t = next(known)
            return np.nan_to_num(PERSON.points[t]), np.where(np.isnan(PERSON.points[t, :, 0]), 0, 0.9)

        def people(self, frame):
            return []

    monkeypatch.setattr(track, "Detector", Known)
    result = predict(model, poses=video, output=tmp_path / "film.npz", compare=True, contact_sheet=True)
    with np.load(result.path) as saved:
        frames = saved["frames"]
    assert frames.shape == (24, 16, 32 + 1 + 32 + 1 + 32, 3)
    truth = studio.sequence(1, 96, 192, length=24)[0].reshape(24, 16, 6, 32, 6, 3).mean(axis=(2, 4))
    assert np.abs(frames[:, :, :32] - truth).mean() < 4  # the driver
    smoothed = track.clean(PERSON, 5).cropped((0, 0, 192, 96), (32, 16))
    poses = draw(smoothed.joints(), 16, 32, STUDIO)
    assert np.abs(frames[:, :, 33:65].astype(int) - poses).mean() < 0.5
    first = origin.read_origin(model.path).first_frame
    expected = model.generate(np.float32(first) / 255, frames[:, :, 33:65] / np.float32(255))
    np.testing.assert_allclose(frames[:, :, 66:], 255 * expected, atol=0.51)
    with Image.open(tmp_path / "film_sheet.png") as sheet:
        assert sheet.size[0] > 6 * 98 * 4


def test_motion_capture_drives_a_film(model, tmp_path):
    def joint(name, offset, *below):
        return (f"JOINT {name}\n{{\nOFFSET {offset}\nCHANNELS 1 Xrotation\n" + "".join(below)
                + ("" if below else "End Site\n{\nOFFSET 0 0 1\n}\n") + "}\n")

    legs = [joint(f"{side}UpLeg", f"{x} 0 0", joint(f"{side}Leg", "0 -4 0", joint(f"{side}Foot", "0 -4 0")))
            for side, x in (("Left", 1), ("Right", -1))]
    text = ("HIERARCHY\nROOT Hips\n{\nOFFSET 0 0 0\nCHANNELS 3 Xposition Yposition Zposition\n" + "".join(legs)
            + joint("Neck", "0 6 0", joint("Head", "0 2 0")) + "}\nMOTION\nFrames: 10\nFrame Time: 0.05\n")
    path = tmp_path / "legs.bvh"
    path.write_text(text + "0 9 0 0 0 0 0 0 0 0 0\n" * 10)
    result = predict(model, poses=path, output=tmp_path / "film.npz", overlay=True, view="side")
    with np.load(result.path) as saved:
        assert saved["frames"].shape == (10, 16, 32, 3)


@pytest.mark.parametrize("options, message", [
    (dict(poses="no.mp4"), "no.mp4"),
    (dict(poses="text.mp4"), "text.mp4"),
    (dict(poses="bad.json"), "bad.json"),
    (dict(poses="nobody.npz"), "no person|NaN|no point"),
    (dict(poses="walk.npz", truth="drawn"), "--truth"),
    (dict(poses="drawn", fit="place", first_frame="drawn/f0.png"), "--retarget"),
    (dict(poses="drawn", compare=True, first_frame="drawn/f0.png"), "--compare"),
    (dict(fit="limbs"), "--retarget"),
    (dict(poses="walk.npz", first_frame="tall.png"), "tall.png"),
    (dict(poses="walk.npz", output="walk.npz"), "--output"),
    (dict(poses="legs.bvh", view="above"), "view|hips|BVH|legs.bvh"),
    (dict(poses="walk.npz", view="side"), "--view"),
])
def test_bad_input_is_refused_before_anything_is_written(options, message, model, walk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "bad.json").write_text(json.dumps({"people": 3}))
    (tmp_path / "legs.bvh").write_text("HIERARCHY\n")
    np.savez("nobody.npz", points=np.full((5, 33, 3), np.nan))
    (tmp_path / "drawn").mkdir()
    for t in range(3):
        Image.new("RGB", (32, 16), "white").save(f"drawn/f{t}.png")
    Image.new("RGB", (32, 200)).save("tall.png")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        predict(model, **{"output": "film.gif", **options})
    assert sorted(tmp_path.iterdir()) == before
