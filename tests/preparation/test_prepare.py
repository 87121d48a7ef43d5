"""From a video to a data set."""

import dataclasses
import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from cvae_tf.data.film import film_writer
from cvae_tf.data.footage import load_footage
from cvae_tf.data.video import default_rate, ffmpeg
from cvae_tf.errors import InputError
from cvae_tf.pose.keypoints import KeyPoints, read_poses
from cvae_tf.pose.skeleton import LAB, draw
from cvae_tf.pose.smoothing import fill_gaps
from cvae_tf.preparation import crop, track
from cvae_tf.preparation import prepare as preparing
from cvae_tf.preparation.prepare import prepare
from cvae_tf.studio import scene as studio

pytest.importorskip("imageio_ffmpeg")
HEIGHT, WIDTH, COUNT = 96, 160, 60
KNOWN = studio.key_points(1, HEIGHT, WIDTH, length=COUNT)


class FakeDetector:
    """Knows the studio's key points, and takes frames in order; None where ``missed`` says so."""

    missed = ()
    calls = 0

    def __init__(self):
        self.state = (None, False)

    def __call__(self, frame):
        t = 0 if self.state[0] is None else int(self.state[0][0, 0]) + 1
        self.state = np.full((2, 3), float(t)), True
        type(self).calls += 1
        if t % COUNT in self.missed:
            return None
        points = np.nan_to_num(KNOWN.points[t % COUNT], nan=-50)
        return points, np.where(np.isnan(KNOWN.points[t % COUNT, :, 0]), 0, 0.9).astype(np.float32)

    def people(self, frame):
        return [(0.9, (0, 0, 1, 1))]


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(FakeDetector, "missed", ())
    monkeypatch.setattr(FakeDetector, "calls", 0)
    monkeypatch.setattr(track, "Detector", FakeDetector)
    return FakeDetector


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "me.mp4"
    with film_writer(path, 20) as append:
        append(studio.sequence(1, HEIGHT, WIDTH, length=COUNT)[0])
    return path


def _contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file()}


def test_a_video_becomes_a_data_set_that_training_reads(film, fake, tmp_path):
    record = prepare([film], tmp_path / "me", crop="whole", height=48)
    assert record["frame_size"] == [48, 80] and record["fps"] == 20
    assert record["frames"] == {"train": 60 - 9 - 3, "val": 9}  # 15 percent, and a gap of a twentieth
    splits = load_footage(tmp_path / "me")
    assert splits.train.frames.shape == (48, 48, 80, 3) and splits.val.frames.shape == (9, 48, 80, 3)
    # The drawings are those of the key points, which are the known ones, smoothed and scaled.
    key_points, names = read_poses(tmp_path / "me" / "poses.json")
    assert names[0] == "train/train_img/frame000000000.png" and len(names) == 57
    np.testing.assert_array_equal(draw(key_points.joints(), 48, 80), np.concatenate([splits.train.poses,
                                                                                    splits.val.poses]))
    expected = track.clean(KNOWN, 5).cropped((0, 0, WIDTH, HEIGHT), (80, 48))
    there = ~np.isnan(expected.points[:48])
    np.testing.assert_allclose(key_points.points[:48][there], expected.points[:48][there], atol=0.01)
    # The frames are those of the video: the truth, up to compression.
    truth = studio.sequence(1, HEIGHT, WIDTH, length=COUNT)[0].reshape(COUNT, 48, 2, 80, 2, 3).mean(axis=(2, 4))
    assert np.abs(splits.train.frames - truth[:48]).mean() < 3
    with Image.open(tmp_path / "me" / "sheet.png") as sheet:
        assert sheet.size[0] > 400
    assert not list(tmp_path.glob(".*"))  # no workspace is left


def test_mirrored_clips_are_drawn_from_key_points(film, fake, tmp_path):
    prepare([film], tmp_path / "me", crop="whole", height=48)
    train = load_footage(tmp_path / "me").train
    clips = train.clips(4, 2, mirror=True)
    mirrored = draw(train.key_points.mirrored().joints(), 48, 80, LAB)
    found = 0
    for batch in clips.take(6):
        for poses, frames in zip(batch["poses"].numpy(), batch["frames"].numpy(), strict=True):
            starts = [t for t in range(len(train.frames) - 3) if np.array_equal(mirrored[t:t + 4], poses)]
            if starts:
                found += 1
                assert any(np.array_equal(train.frames[t:t + 4, :, ::-1], frames) for t in starts)
    assert found


def test_the_person_decides_the_crop(film, fake, tmp_path):
    record = prepare([film], tmp_path / "me", height=48)
    (source,) = record["sources"]
    x, y, width, height = source["box"]
    inside = KNOWN.points[KNOWN.confidence > 0]
    assert width < WIDTH and record["frame_size"][1] < 80
    share = np.mean((inside[:, 0] >= x) & (inside[:, 0] <= x + width) & (inside[:, 1] >= y)
                    & (inside[:, 1] <= y + height))
    assert share > 0.97


def test_the_same_input_twice_does_nothing_and_another_is_refused(film, fake, tmp_path, capsys):
    first = prepare([film], tmp_path / "me", height=48)
    before, calls = _contents(tmp_path / "me"), fake.calls
    assert prepare([film], tmp_path / "me", height=48) == first
    assert fake.calls == calls and "nothing to do" in capsys.readouterr().out
    with pytest.raises(InputError, match="--overwrite"):
        prepare([film], tmp_path / "me", height=56)
    assert _contents(tmp_path / "me") == before
    assert prepare([film], tmp_path / "me", height=56, overwrite=True)["frame_size"][0] == 56


def test_an_interrupted_search_goes_on_and_gives_the_same(film, fake, tmp_path, monkeypatch):
    monkeypatch.setattr(track, "SAVED_EVERY", 10)
    prepare([film], tmp_path / "whole", height=48)
    calls, original = fake.calls, fake.__call__

    def interrupted(self, frame):
        if type(self).calls == calls + 37:
            raise KeyboardInterrupt
        return original(self, frame)

    with monkeypatch.context() as patch:
        patch.setattr(fake, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare([film], tmp_path / "parts", height=48)
    assert not (tmp_path / "parts").exists()
    fake.calls = 0
    prepare([film], tmp_path / "parts", height=48)
    assert fake.calls == COUNT - 30
    assert _contents(tmp_path / "parts") == _contents(tmp_path / "whole")


def test_a_damaged_workspace_is_begun_anew(film, fake, tmp_path):
    place = tmp_path / ".me.prepare"
    prepare([film], tmp_path / "whole", height=48)
    place.mkdir()
    for name in ("a.npz", "b.npz"):
        (place / name).write_bytes(b"PK\3\4 damaged")
    assert prepare([film], tmp_path / "me", height=48)["frames"]["train"] == 48


def test_a_long_gap_is_a_cut_and_a_short_one_is_filled(film, fake, tmp_path):
    fake.missed = {10, 11, 30, 31, 32, 33, 34, 35, 36, 37}
    record = prepare([film], tmp_path / "me", crop="whole", height=48, max_gap=5)
    assert record["sources"][0]["kept"] == 52
    assert load_footage(tmp_path / "me").train.sequences == ((0, 30), (30, 52 - 30 - 8 - 2))


def test_validation_videos_of_their_own(film, fake, tmp_path):
    other = tmp_path / "other.mp4"
    with film_writer(other, 20) as append:
        append(studio.sequence(1, HEIGHT, WIDTH, length=COUNT)[0][::-1])
    record = prepare([film], tmp_path / "me", val=[other], height=48)
    assert record["frames"] == {"train": 60, "val": 60}
    shutil.copy(film, other)
    with pytest.raises(InputError, match="two names"):
        prepare([film], tmp_path / "leak", val=[other], height=48)


def _at(*x, width=100, fps=10):
    """Key points of a person with one point at ``x``, None where nobody is."""
    points = np.full((len(x), 33, 2), np.nan, np.float32)
    for t, value in enumerate(x):
        if value is not None:
            points[t, 0] = value, 5
    return KeyPoints(points, np.isfinite(points[..., 0]).astype(np.float32), (width, 50), fps)


@pytest.mark.parametrize("x, kept", [
    ([50] * 4, "1111"),
    ([50, None, None, 50], "1111"),  # a short gap
    ([50, None, None, None, 50], "10001"),  # nobody in the middle of the picture: a mistake of the detector
    ([None, 50, 50, None], "0110"),  # ends
    ([2] + [None] * 15 + [50], "11111111111000001"),  # out of the left border: a second of the empty room
    ([50] + [None] * 15 + [98], "10000011111111111"),
    ([None] * 12 + [99], "0011111111111"),
    ([None, None], "00"),
])
def test_which_frames_are_kept(x, kept):
    assert "".join(map(str, preparing.kept_frames(fill_gaps(_at(*x), 2)).astype(int))) == kept


@pytest.mark.parametrize("count, train, val", [(100, 80, 15), (450, 360, 68), (20, 16, 3), (4, 2, 2), (2, 0, 2)])
def test_a_video_is_split_by_time_with_a_gap(count, train, val):
    indices = np.arange(5, 5 + count)
    parts = preparing._split(indices, "both", fps=30)
    assert (len(parts["train"]), len(parts["val"])) == (train, val)
    assert list(parts["val"]) == list(indices[count - val:]) and list(parts["train"]) == list(indices[:train])


def test_the_movement_of_the_background_by_hand():
    frames = np.full((3, 10, 10, 3), 100, np.uint8)
    frames[1] += 30  # all of frame 1, so that the median is 100
    nobody = _at(None, None, None)
    assert preparing.background_movement(frames, nobody) == pytest.approx(10)
    points = np.full((3, 33, 2), np.nan, np.float32)
    points[1, 0], points[1, 1] = (0, 0), (10, 10)  # in frame 1, a person hides it all
    person = dataclasses.replace(nobody, points=points)
    assert preparing.background_movement(frames, person) == 0


@pytest.mark.parametrize("rates, expected", [([30], 30), ([60], 30), ([29.97], 29.97), ([59.94], 29.97), ([50], 25),
                                             ([25], 25), ([5], 5), ([30, 25], 25), ([120], 30)])
def test_the_default_rate_keeps_frames_evenly_apart(rates, expected):
    assert default_rate([type("Video", (), {"fps": rate}) for rate in rates]) == pytest.approx(expected)


def test_given_key_points_replace_the_detector(film, tmp_path, monkeypatch):
    monkeypatch.setattr(track, "Detector", None)  # must not be built
    np.savez(tmp_path / "known.npz", points=np.concatenate([KNOWN.points, KNOWN.confidence[..., None]], -1))
    record = prepare([film], tmp_path / "me", poses=tmp_path / "known.npz", crop="whole", height=48)
    assert record["frames"]["train"] == 48
    with pytest.raises(InputError, match="60"):
        np.savez(tmp_path / "short.npz", points=np.zeros((30, 33, 3)) + 20)
        prepare([film], tmp_path / "other", poses=tmp_path / "short.npz")
    assert not (tmp_path / "other").exists()


def test_the_real_detector_finds_the_studios_person(tmp_path):
    height, width, count = 360, 640, 40
    with film_writer(tmp_path / "me.mp4", 20) as append:
        append(studio.sequence(1, height, width, length=count)[0])
    record = prepare([tmp_path / "me.mp4"], tmp_path / "me", crop="whole", height=32)
    key_points, _ = read_poses(tmp_path / "me" / "poses.json")
    known = studio.key_points(1, height, width, length=count)[:record["frames"]["train"]]
    found, known = key_points[:len(known)].joints(), known.cropped((0, 0, 632, 360), key_points.size).joints()
    names = [f"{side}_{joint}" for side in ("left", "right") for joint in ("shoulder", "elbow", "wrist", "hip", "knee",
                                                                         "ankle")]
    errors = np.stack([np.linalg.norm(found[name] - known[name], axis=1) for name in names])
    assert np.median(errors) < 0.03 * studio.PERSON * 32  # 3 percent of the person's height


@pytest.mark.parametrize("words, message", [
    (["no.mp4"], "no.mp4"),
    (["picture.mp4"], "picture.mp4"),
    (["text.mp4"], "text.mp4"),
    (["sound.mp4"], "sound"),
    (["me.mp4", "--height", "33"], "--height"),
    (["me.mp4", "--height", "4"], "--height"),
    (["me.mp4", "--fps", "-1"], "--fps"),
    (["me.mp4", "--fps", "nan"], "--fps"),
    (["me.mp4", "--max_gap", "-1"], "--max_gap"),
    (["me.mp4", "--crop", "middle"], "--crop"),
    (["me.mp4", "--crop", "0,0,5000,50"], "picture"),
    (["me.mp4", "me.mp4"], "twice"),
    (["me.mp4", "--val", "me.mp4"], "twice"),
    (["me.mp4", "other.mp4", "--poses", "known.npz"], "--poses"),
    (["me.mp4", "--poses", "walk.bvh"], "motion capture"),
    (["me.mp4", "--poses", "no.npz"], "no.npz"),
    (["nobody.mp4"], "no person"),
    (["one.mp4"], "one.mp4"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_input_ends_with_one_line_and_leaves_nothing(words, message, end_of, film, fake, tmp_path):
    for name in ("me.mp4", "other.mp4"):
        shutil.copy(film, tmp_path / name)
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    shutil.move(tmp_path / "picture.png", tmp_path / "picture.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "walk.bvh").write_text("HIERARCHY\n")
    subprocess.run([ffmpeg(), "-loglevel", "error", "-f", "lavfi", "-i", "sine=duration=0.2", "-c:a", "aac",
                    str(tmp_path / "sound.mp4")], check=True)
    for name, count in (("nobody.mp4", 8), ("one.mp4", 1)):
        with film_writer(tmp_path / name, 20) as append:
            append(np.zeros((count, 32, 64, 3), np.uint8))
    if words == ["nobody.mp4"]:
        fake.missed = range(COUNT)
    before = sorted(path.name for path in tmp_path.iterdir())
    end = end_of("prepare", *words, "--out", "data")
    assert end.code == 2 and message in end.err, end.err
    assert len(end.err.strip().splitlines()) == 1
    left = sorted(path.name for path in tmp_path.iterdir() if path.name != ".data.prepare")
    assert left == before


def test_a_data_set_that_was_not_prepared_is_not_replaced(film, fake, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="thesis"):
        prepare([film], tmp_path / "mine", overwrite=True)
    with pytest.raises(InputError, match="--out"):
        prepare([film], film)


def test_files_of_the_user_in_a_data_set_are_not_lost(film, fake, tmp_path):
    prepare([film], tmp_path / "me", height=48)
    notes = tmp_path / "me" / "train" / "notes.txt"
    notes.write_text("x")
    with pytest.raises(InputError, match="notes.txt"):
        prepare([film], tmp_path / "me", height=56, overwrite=True)
    assert notes.exists()
    with pytest.raises(InputError, match="prepared data set"):
        prepare([film], tmp_path / "me" / "train" / "inner")
    notes.unlink()
    (tmp_path / "me" / "prepare.json").write_text("{")
    with pytest.raises(InputError, match="--overwrite"):
        prepare([film], tmp_path / "me", height=48)
    assert prepare([film], tmp_path / "me", height=48, overwrite=True)["frames"]["train"] == 48


def test_what_a_killed_process_left_is_removed_or_put_back(film, fake, tmp_path):
    prepare([film], tmp_path / "me", height=48)
    (tmp_path / "me").rename(tmp_path / ".me.123.old")
    (tmp_path / ".me.124.tmp").mkdir()
    fake.calls = 0
    prepare([film], tmp_path / "me", height=48)
    assert fake.calls == 0 and sorted(path.name for path in tmp_path.iterdir()) == ["me"]


def test_given_key_points_belong_to_the_frames_that_are_taken(tmp_path):
    with film_writer(tmp_path / "fast.mp4", 60) as append:  # each frame is lighter than the one before
        append(np.stack([np.full((48, 64, 3), 4 * t, np.uint8) for t in range(COUNT)]))
    moving = np.full((COUNT, 33, 3), 0.9)
    moving[..., 0] = np.linspace(2, 60, COUNT)[:, None] + np.arange(33) / 100  # evenly, as smoothing keeps
    moving[..., 1] = 5 + np.arange(33)
    np.savez(tmp_path / "known.npz", points=moving)
    prepare([tmp_path / "fast.mp4"], tmp_path / "me", poses=tmp_path / "known.npz", crop="whole", height=48, fps=20)
    train = load_footage(tmp_path / "me").train
    shown = np.rint(train.frames.mean(axis=(1, 2, 3)) / 4).astype(int)
    assert shown.tolist() == list(range(shown[0], shown[0] + 3 * len(shown), 3))
    np.testing.assert_allclose(train.key_points.points[:, 0, 0], moving[shown, 0, 0], atol=0.02)


def test_who_is_cut_by_a_box():
    assert crop.cut_share(_at(10, 50, 90, None), (20, 0, 60, 50)) == pytest.approx(2 / 3)


def test_a_full_disk_leaves_nothing_half_written(film, fake, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(preparing.Image.Image, "save", full)
    with pytest.raises(InputError, match="No space"):
        prepare([film], tmp_path / "me", height=48)
    assert not (tmp_path / "me").exists()


def test_the_record_is_json_with_every_choice(film, fake, tmp_path):
    prepare([film], tmp_path / "me", height=48)
    record = json.loads((tmp_path / "me" / "prepare.json").read_text())
    assert record["sources"][0]["path"] == str(film)
    assert record["request"]["settings"] == {"crop": "person", "height": 48, "fps": 20.0, "max_gap": 5}
    assert len(record["request"]["sources"][0]["sha256"]) == 64
    assert record["person"]["near_height"] > 0.3
