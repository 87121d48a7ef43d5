import colorsys
import dataclasses

import numpy as np
import pytest
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

from cvae_tf.data import mirror
from cvae_tf.data.clips import Clips
from cvae_tf.data.footage import Footage, load_footage
from cvae_tf.errors import InputError
from cvae_tf.pose import skeleton
from cvae_tf.studio import scene as studio

RAINBOW = [hue for hue in range(0, 340, 20)]  # OpenPose's hues of its 18 lines, 20 degrees apart
LAB = {"hip": (0, 161), "knee": (0, 161), "ankle": (20, 141), "foot_index": (48, 113), "shoulder": (192, 226),
       "elbow": (192, 226), "wrist": (184, 212)}
OPENPOSE = {"right_shoulder": 0, "left_shoulder": 1, "right_elbow": 2, "right_wrist": 3, "left_elbow": 4,
            "left_wrist": 5, "right_hip": 6, "right_knee": 7, "right_ankle": 8, "right_foot_index": 8, "left_hip": 9,
            "left_knee": 10, "left_ankle": 11, "left_foot_index": 11, "head": 12, "nose": 13, "pelvis": 6}


def _drawn(hue, saturation=1.0):
    """The 8-bit colour of a limb of ``hue`` in degrees, mixed with white paper down to ``saturation``."""
    return np.rint(255 * np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, 1))).astype(int)


def _lab_hue(end):
    side, _, part = end.partition("_")
    return LAB[part][side == "right"] if part else 240 if end == "pelvis" else 290


def _poses_in(monkeypatch, colour_of, size=(32, 64), length=96):
    """The studio's poses with the colour ``colour_of(end, colour)`` for each limb."""
    with monkeypatch.context() as patch:
        limbs = tuple(skeleton.Limb(a, b, tuple(int(c) for c in colour_of(b, colour)))
                      for a, b, colour in skeleton.STUDIO.limbs)
        patch.setattr(skeleton, "STUDIO", skeleton.STUDIO._replace(limbs=limbs))
        return studio.sequence(1, *size, length=length)[1]


def test_a_limb_changes_sides_and_takes_the_colour_of_its_counterpart():
    poses = np.full((2, 3, 8, 3), 255, np.uint8)
    poses[0, 1, 0], poses[0, 1, 2] = _drawn(0, 0.4), _drawn(240, 0.7)  # a left thigh, the spine
    poses[1, 2, 6], poses[1, 0, 1] = _drawn(212), _drawn(197, 0.9)  # a right forearm, nearly a left upper arm
    expected = np.full_like(poses, 255)
    expected[0, 1, 7], expected[0, 1, 5] = _drawn(161, 0.4), _drawn(240, 0.7)
    expected[1, 2, 1], expected[1, 0, 6] = _drawn(184), _drawn(231, 0.9)
    result = mirror.mirrored(poses, mirror.LAB)
    assert result.dtype == np.uint8
    assert np.max(np.abs(result.astype(int) - expected)) <= 1


@pytest.mark.parametrize("palette", [mirror.LAB, mirror.STUDIO], ids=["lab", "studio"])
def test_any_colour_moves_as_the_nearest_limb_does_to_the_bit(palette):
    levels = np.uint8([0, 1, 2, 15, 60, 61, 127, 128, 200, 254, 255])
    poses = np.stack(np.meshgrid(levels, levels, levels), -1)  # every mix of these, greys among them
    limbs, targets = (np.array([*a, *b, *palette.others]) for a, b in
                      ((palette.left, palette.right), (palette.right, palette.left)))
    hsv = rgb_to_hsv(poses[:, :, ::-1] / 255)
    degrees = np.rint(360 * hsv[..., 0])[..., None]
    nearest = np.argmin(np.abs((degrees - limbs + 180) % 360 - 180), axis=-1)
    hsv[..., 0] = (hsv[..., 0] + (targets - limbs)[nearest] / 360) % 1
    np.testing.assert_array_equal(mirror.mirrored(poses, palette), np.rint(255 * hsv_to_rgb(hsv)))


def test_the_studio_mirrored_is_drawn_as_a_mirrored_person_is(monkeypatch):
    _, poses = studio.sequence(1, 64, 128, length=40)
    counterpart = {limb[:2]: limb[2] for limb in skeleton.STUDIO.limbs}

    def other_side(name):
        return name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")

    exchanged = tuple(skeleton.Limb(a, b, counterpart[other_side(a), other_side(b)])
                      for a, b, _ in skeleton.STUDIO.limbs)
    monkeypatch.setattr(skeleton, "STUDIO", skeleton.STUDIO._replace(limbs=exchanged))
    _, expected = studio.sequence(1, 64, 128, length=40)
    monkeypatch.undo()
    result = mirror.mirrored(poses, mirror.STUDIO)[:, :, ::-1].astype(int)
    drawn = np.any(expected != 255, axis=-1)
    wrong = np.max(np.abs(result - expected), axis=-1) > 64  # also in brightness, where limbs mix
    assert wrong[drawn].mean() < 0.05
    unmirrored = np.max(np.abs(poses.astype(int) - expected), axis=-1) > 64
    assert unmirrored[drawn].mean() > 0.4


def test_half_of_the_clips_are_mirrored_with_their_poses_and_context():
    random = np.random.default_rng(0)
    frames, poses = random.integers(0, 256, (2, 40, 8, 16, 3), dtype=np.uint8)
    footage = Footage(frames, poses, ((0, 25), (25, 15)), palette=mirror.LAB)
    plain, clips = (Clips(footage, length=5, batch_size=4, seed=3, mirror=flag) for flag in (False, True))
    count = 0
    for step in range(50):
        before, after = plain.batch(step), clips.batch(step)
        for b in range(4):
            if np.array_equal(after["frames"][b], before["frames"][b]):
                assert all(np.array_equal(after[name][b], before[name][b]) for name in before)
                continue
            count += 1
            np.testing.assert_array_equal(after["frames"][b], before["frames"][b, :, :, ::-1])
            np.testing.assert_array_equal(after["context"][b], before["context"][b, :, ::-1])
            np.testing.assert_array_equal(after["poses"][b], mirror.mirrored(before["poses"][b], mirror.LAB))
    assert 70 < count < 130  # of 200


def test_the_distance_from_a_palette_is_the_weighted_mean_from_the_nearest_hue():
    palette = mirror.Palette((0, 30), (180, 150), (240,), farthest=1.0, style=None)
    hues, weights = np.array([2, 356, 30, 175, 148, 250.0]), np.array([1, 1, 2, 1, 1, 0.5])
    assert palette.distance(hues, weights) == pytest.approx((2 + 4 + 0 + 5 + 2 + 0.5 * 10) / 6.5)
    assert palette.distance(np.array([0, 150.0]), np.ones(2)) == np.inf  # three of five limbs are absent


@pytest.mark.parametrize("seed, size", [(0, (32, 64)), (2, (32, 64)), (2, (16, 32)), (6, (48, 40))])
def test_the_studios_poses_are_recognised(seed, size):
    assert mirror.find_palette(studio.sequence(1, *size, seed=seed, length=96)[1]) is mirror.STUDIO


def test_poses_in_the_labs_hues_are_recognised_and_some_hundred_of_many_are_read(monkeypatch):
    poses = _poses_in(monkeypatch, lambda end, colour: _drawn(_lab_hue(end)))
    assert mirror.find_palette(poses) is mirror.LAB
    drifted = _poses_in(monkeypatch, lambda end, colour: _drawn(_lab_hue(end) + 5))  # as far off as real ones
    assert mirror.find_palette(drifted) is mirror.LAB
    many = np.broadcast_to(np.uint8(255), (10**8, 32, 64, 3))  # 600 GB
    assert mirror.find_palette(many) is None


@pytest.mark.parametrize("colour_of", [
    lambda end, colour: colour[::-1],
    lambda end, colour: (colour[2], *colour[:2]),
    lambda end, colour: _drawn(360 * colorsys.rgb_to_hsv(*colour)[0] + 7),
    lambda end, colour: _drawn(RAINBOW[OPENPOSE[end]]),
    lambda end, colour: _drawn(_lab_hue(end) + 9),
    lambda end, colour: _drawn(0 if "left" in end else 240 if "right" in end else 120),  # hues of limbs, but few
    lambda end, colour: _drawn(240),
    lambda end, colour: (60, 60, 60),
], ids=["bgr", "rotated", "turned", "openpose", "lab turned", "a colour for each side", "blue", "grey"])
def test_poses_in_other_colours_are_not_recognised(colour_of, monkeypatch):
    assert mirror.find_palette(_poses_in(monkeypatch, colour_of)) is None


def test_only_clips_of_a_known_palette_can_be_mirrored():
    footage = load_footage(frame_size=(16, 32), max_frames=96, studio_seed=2).train
    assert footage.palette is mirror.STUDIO  # known, and not guessed from few frames
    Clips(footage, 8, 2, mirror=True)
    unknown = dataclasses.replace(footage, palette=None)
    Clips(unknown, 8, 2)
    with pytest.raises(InputError, match="--no_mirror"):
        Clips(unknown, 8, 2, mirror=True)
