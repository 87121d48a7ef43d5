import colorsys

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from cvae_tf.data import mirror
from cvae_tf.pose.keypoints import KeyPoints
from cvae_tf.pose.skeleton import COCO, LAB, LANDMARKS, MIRRORED, STUDIO, Limb, Style, draw, hues, other_side
from cvae_tf.studio import person, scene

BLACK = (0, 0, 0)
STYLES = pytest.mark.parametrize("style", [LAB, STUDIO], ids=["lab", "studio"])


def _line(start, end, height=32, width=64, style=LAB, colour=BLACK):
    """One drawing (H, W, 3) float of a single limb with the line width of ``style``."""
    joints = {"neck": np.array([start], float), "pelvis": np.array([end], float)}
    return draw(joints, height, width, Style((Limb("neck", "pelvis", colour),), style.width))[0].astype(float)


def _ink(drawing):
    return 1 - drawing[..., 0] / 255


def _supersampled(joints, height, width, style):
    """The drawings by definition: each pixel is the mean of 16x16 points, coloured by the last limb that covers it."""
    result = []
    for t in range(len(next(iter(joints.values())))):
        paper = np.full((16 * height, 16 * width, 3), 255.0)
        for limb in style.limbs:
            ends = np.array([joints[limb.start][t], joints[limb.end][t]])
            if not np.isnan(ends).any():
                low, high = (np.clip(16 * place, 0, None).astype(int) for place in (ends.min(0) - 9, ends.max(0) + 9))
                part = paper[low[1]:high[1], low[0]:high[0]]
                y, x = np.mgrid[:part.shape[0], :part.shape[1]]
                place = (np.stack([x, y], -1) + low + 0.5) / 16
                a, way = ends[0], ends[1] - ends[0]
                share = np.clip((place - a) @ way / max(way @ way, 1e-12), 0, 1)
                distance = np.linalg.norm(place - a - share[..., None] * way, axis=-1)
                part[distance <= style.width * height / 2] = limb.colour
        result.append(paper.reshape(height, 16, width, 16, 3).mean(axis=(1, 3)))
    return np.stack(result)


def _figure(length=96, height=32, width=64, seed=1):
    """All joints of the styles (T, 2) in pixels: the studio's person with eyes, ears, heels and fingers."""
    joints = person.skeleton(person.write_script(np.random.default_rng([seed]), length))
    forward = joints.pop("forward")
    sideways = forward[:, [2, 1, 0]] * (1, 0, -1)
    for side, sign in (("left", 1), ("right", -1)):
        joints[f"{side}_ear"] = joints["head"] + 0.04 * sign * sideways
        joints[f"{side}_eye"] = joints["nose"] + 0.02 * sign * sideways + (0, 0.02, 0)
        joints[f"{side}_heel"] = joints[f"{side}_ankle"] - 0.02 * forward - (0, 0.04, 0)
        joints[f"{side}_index"] = 1.4 * joints[f"{side}_wrist"] - 0.4 * joints[f"{side}_elbow"]
    return {name: scene._project(position, height, width)[0] for name, position in joints.items()}


def test_names():
    assert len(LANDMARKS) == len(set(LANDMARKS)) == 33 and set(COCO) <= set(LANDMARKS) and len(COCO) == 17
    assert other_side("left_foot_index") == "right_foot_index" and other_side("mouth_right") == "mouth_left"
    assert other_side("nose") == "nose"
    assert np.array_equal(np.array(MIRRORED)[list(MIRRORED)], np.arange(33)) and MIRRORED[0] == 0


@STYLES
@pytest.mark.parametrize("height, width", [(32, 64), (64, 48), (128, 64)])
def test_drawn_as_by_definition(style, height, width):
    joints = {name: positions[::32] for name, positions in _figure(96, height, width).items()}
    joints["left_wrist"][1] = np.nan
    drawn, expected = draw(joints, height, width, style).astype(float), _supersampled(joints, height, width, style)
    inked = (expected < 254).any(axis=-1) | (drawn < 254).any(axis=-1)
    assert drawn.shape == (3, height, width, 3) and inked.any()
    error, contrast = np.abs(drawn - expected)[inked].mean(), np.abs(255 - expected)[inked].mean()
    assert error < 0.25 * contrast
    assert np.abs(np.mean(drawn - expected, axis=(1, 2))).max() < 0.15 * np.abs(255 - expected).mean(axis=(1, 2)).max()


@STYLES
@pytest.mark.parametrize("height", [16, 32, 64, 100, 256])
@pytest.mark.parametrize("x", [10.0, 10.3, 10.5, 11.9])
def test_the_ink_of_a_limb_is_its_width(style, height, x):
    thickness = style.width * height
    upright = _ink(_line((x, -9), (x, height + 9), height, 64, style))
    level = _ink(_line((-9, x), (73, x), height, 64, style)).T
    first = np.arange(max(height, 64))
    covered = np.maximum(0, np.minimum(first + 1, x + thickness / 2) - np.maximum(first, x - thickness / 2))
    for ink in (upright, level):
        np.testing.assert_allclose(ink.sum(axis=1), thickness, rtol=0.15)
        np.testing.assert_allclose(ink, np.broadcast_to(covered[:ink.shape[1]], ink.shape), atol=0.3)


@STYLES
@pytest.mark.parametrize("x", [20.0, 20.25, 20.5, 20.9])
def test_two_limbs_three_pixels_apart_stay_apart(style, x):
    ends = {"left_hip": (x, 4), "left_knee": (x, 28), "right_hip": (x + 3, 4), "right_knee": (x + 3, 28)}
    drawing = draw({name: np.array([place]) for name, place in ends.items()}, 32, 64, style)[0]
    row = drawing[16]
    left, right = (np.flatnonzero((row != 255).any(axis=-1))[[0, -1]])
    assert left == int(x) or left == int(x) - 1
    assert (row[left:right] == 255).all(axis=-1).any()


def test_colours_and_order():
    limbs = (Limb("neck", "pelvis", (255, 0, 0)), Limb("left_hip", "right_hip", (0, 0, 255)))
    joints = {"neck": [(32, 2)], "pelvis": [(32, 30)], "left_hip": [(4, 16)], "right_hip": [(60, 16)]}
    joints = {name: np.array(place, float) for name, place in joints.items()}
    drawing = draw(joints, 32, 64, Style(limbs, 0.25))[0]
    assert drawing[5, 32].tolist() == [255, 0, 0]
    assert drawing[16, 32].tolist() == drawing[16, 10].tolist() == [0, 0, 255]
    assert drawing[2, 10].tolist() == [255, 255, 255]


@STYLES
def test_limbs_with_a_missing_end_are_left_out(style):
    joints = _figure(8)
    removed = {name: places for name, places in joints.items() if name != "left_knee"}
    expected = draw(removed, 32, 64, style)
    joints["left_knee"] = np.full_like(joints["left_knee"], np.nan)
    np.testing.assert_array_equal(draw(joints, 32, 64, style), expected)
    joints["left_knee"] = np.stack([np.full(8, 30.0), np.full(8, np.nan)], 1)  # as bad as two
    np.testing.assert_array_equal(draw(joints, 32, 64, style), expected)
    nobody = {name: np.full_like(places, np.nan) for name, places in joints.items()}
    assert (draw(nobody, 32, 64, style) == 255).all()


@pytest.mark.parametrize("start, end", [
    ((-50, 5), (-40, 25)), ((70, 5), (90, 25)), ((5, -60), (60, -50)), ((5, 40), (60, 90)), ((1e9, 5), (10, 5)),
    ((-1e30, 0), (1e30, 0)), ((np.inf, 5), (5, 5)), ((np.nan, 5), (5, 5)), ((-np.inf, 5), (np.inf, 5)),
])
def test_nothing_is_drawn_outside_or_at_impossible_places(start, end):
    assert (_line(start, end) == 255).all()


def test_a_limb_that_leaves_the_picture_is_cut():
    whole = _line((-20, 10), (84, 10), 32, 64)
    np.testing.assert_allclose(_ink(whole).sum(axis=0), LAB.width * 32, rtol=0.15)


def test_a_limb_without_length_is_a_dot_and_no_frames_give_no_drawings():
    dot = _ink(_line((20.5, 16.5), (20.5, 16.5), style=Style((), 0.1)))
    assert 0.5 < dot.sum() / (np.pi * 1.6**2) < 1.5
    assert draw({"neck": np.zeros((0, 2)), "pelvis": np.zeros((0, 2))}, 8, 16).shape == (0, 8, 16, 3)


@STYLES
@pytest.mark.parametrize("height, width", [(64, 96), (256, 256)])
def test_mirrored_key_points_are_drawn_flipped_with_the_colours_of_the_other_side(style, height, width):
    figure = KeyPoints.from_joints(_figure(9, height, width, seed=3), (width, height), 25)[::4]
    other = style._replace(limbs=tuple(Limb(other_side(a), other_side(b), colour) for a, b, colour in style.limbs))
    # Places may differ by half a pixel. So each pixel is compared together with its neighbours.
    result, expected, plain = (uniform_filter(draw(kp.joints(), height, width, s).astype(float), (0, 3, 3, 0))
                               for kp, s in ((figure.mirrored(), style), (figure, other), (figure, style)))
    inked = (expected < 250).any(axis=-1)[:, :, ::-1]
    error, unmirrored = (np.abs(result - drawing[:, :, ::-1])[inked].mean() for drawing in (expected, plain))
    assert error < 0.15 * (255 - result)[inked].mean()
    assert error < 0.6 * unmirrored


@pytest.mark.parametrize("size", [(32, 64), (64, 64), (256, 256)])
@pytest.mark.parametrize("style, palette", [(LAB, mirror.LAB), (STUDIO, mirror.STUDIO)], ids=["lab", "studio"])
def test_drawings_have_the_palette_of_their_style(style, palette, size):
    assert mirror.find_palette(draw(_figure(96, *size), *size, style)) is palette
    fewer = scene.key_points(2, *size, length=96).joints()  # of face and hands, only the nose
    assert mirror.find_palette(draw(fewer, *size, style)) is palette


def test_the_hues_of_a_style():
    limbs = (Limb("neck", "head", (0, 0, 255)), Limb("pelvis", "left_hip", (255, 0, 0)),
             Limb("pelvis", "right_hip", (0, 255, 0)))
    assert hues(Style(limbs, 0.1)) == ([0], [120], [240])
    for style in (LAB, STUDIO):
        left, right, others = hues(style)
        expected = [360 * colorsys.rgb_to_hsv(*limb.colour)[0] for limb in style.limbs]
        assert sorted([*left, *right, *others]) == pytest.approx(sorted(expected))
        assert len(left) == len(right)
