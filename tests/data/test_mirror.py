import colorsys
import dataclasses

import numpy as np
import pytest
from PIL import Image

from cvae_tf.config import Config
from cvae_tf.data.footage import Clips, Footage, load_footage, mirror
from cvae_tf.data.images import to_float
from cvae_tf.errors import InputError
from cvae_tf.studio import scene as studio


def _drawn(hue, saturation=1.0):
    """The 8-bit colour of a limb of ``hue`` in degrees, as strong as ``saturation`` says against white paper."""
    return np.rint(255 * np.array(colorsys.hsv_to_rgb(hue / 360, saturation, 1)))


def test_a_limb_changes_sides_and_takes_the_colour_of_its_counterpart():
    poses = np.full((2, 3, 8, 3), 255, np.uint8)
    poses[0, 1, 0], poses[0, 1, 2] = _drawn(0, 0.4), _drawn(240, 0.7)  # a left thigh, the spine
    poses[1, 2, 6], poses[1, 0, 1] = _drawn(212), _drawn(197, 0.9)  # a right forearm, nearly a left upper arm
    expected = np.full_like(poses, 255)
    expected[0, 1, 7], expected[0, 1, 5] = _drawn(161, 0.4), _drawn(240, 0.7)
    expected[1, 2, 1], expected[1, 0, 6] = _drawn(184), _drawn(231, 0.9)
    result = mirror.mirrored(poses, *mirror.LAB)
    assert result.dtype == np.uint8
    assert np.max(np.abs(result.astype(int) - expected)) <= 1


def test_the_studio_mirrored_is_drawn_as_a_mirrored_person_is(monkeypatch):
    _, poses = studio.sequence(1, 64, 128, length=40)
    counterpart = {limb[:2]: limb[2] for limb in studio.LIMBS}

    def other_side(name):
        return name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")

    exchanged = [(a, b, counterpart[other_side(a), other_side(b)]) for a, b, _ in studio.LIMBS]
    monkeypatch.setattr(studio, "LIMBS", exchanged)
    _, expected = studio.sequence(1, 64, 128, length=40)
    monkeypatch.undo()
    result = mirror.mirrored(poses, *studio.limb_hues())[:, :, ::-1].astype(int)
    drawn = np.any(expected != 255, axis=-1)
    wrong = np.max(np.abs(result - expected), axis=-1) > 64  # also in brightness, where limbs mix
    assert wrong[drawn].mean() < 0.05
    unmirrored = np.max(np.abs(poses.astype(int) - expected), axis=-1) > 64
    assert unmirrored[drawn].mean() > 0.4


def test_every_other_clip_is_mirrored_with_its_poses_and_its_context():
    random = np.random.default_rng(0)
    frames, poses, mirrored = random.integers(0, 256, (3, 40, 8, 16, 3), dtype=np.uint8)
    sequences = ((0, 25), (25, 15))
    plain = Clips(Footage(frames, poses, sequences), length=5, batch_size=4, seed=3)
    clips = Clips(Footage(frames, poses, sequences, mirrored=mirrored), length=5, batch_size=4, seed=3)
    turned = 0
    for step in range(50):
        for b in range(4):
            before, now = ([x[:, b] if x.ndim == 5 else x[b] for x in batch]
                           for batch in (plain.batch(step), clips.batch(step)))
            if np.array_equal(now[0], before[0]):
                assert np.array_equal(now[1], before[1]) and np.array_equal(now[2], before[2])
                continue
            turned += 1
            start = next(n for n in range(40) if np.array_equal(to_float(frames[n]), before[0][0]))
            np.testing.assert_array_equal(now[0], before[0][:, :, ::-1])
            np.testing.assert_array_equal(now[1], to_float(mirrored[start:start + 5]))
            np.testing.assert_array_equal(now[2], before[2][:, ::-1])
    assert 70 < turned < 130  # of 200


def test_training_footage_is_mirrored_on_demand_and_validation_never():
    config = Config(mirror=True, studio_sequences=1, max_frames=60)
    training, plain = load_footage(config, "train"), load_footage(dataclasses.replace(config, mirror=False), "train")
    np.testing.assert_array_equal(training.mirrored, mirror.mirrored(training.poses, *studio.limb_hues()))
    assert training.checksum == plain.checksum and plain.mirrored is None
    assert load_footage(config, "val").mirrored is None


def test_unevenness_is_the_share_by_which_left_and_right_differ():
    poses = np.full((8, 2, 10, 3), 255, np.uint8)
    poses[0, 0, :4], poses[0, 0, 5:7], poses[0, 1, :3] = _drawn(0), _drawn(161), _drawn(240)
    poses[0, 1, 5:7], poses[0, 1, 8:] = _drawn(20, 0.5), _drawn(141, 0.5)
    # thighs: 4 left, 2 right; shanks: 2 halves each
    assert mirror.unevenness(poses, *mirror.LAB) == pytest.approx(2 / (6 + 2), abs=0.01)
    assert mirror.unevenness(np.full_like(poses, 255), *mirror.LAB) == 0


def test_poses_in_other_colours_than_the_labs_and_the_studios_are_not_mirrored(tmp_path):
    studio.write_tree(tmp_path / "tree", 1, 32, 64, length=80)
    config = Config(data_dir=str(tmp_path / "tree"), mirror=True)
    footage = load_footage(config, "train")
    np.testing.assert_array_equal(footage.mirrored, mirror.mirrored(footage.poses, *studio.limb_hues()))
    for path in (tmp_path / "tree/train/train_label").glob("*.png"):
        Image.fromarray(np.asarray(Image.open(path))[..., [2, 0, 1]]).save(path)
    with pytest.raises(InputError, match="give --no_mirror"):
        load_footage(config, "train")
    load_footage(config, "val")
