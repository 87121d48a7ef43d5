import importlib.util
import shutil
import sys

import numpy as np
import pytest

from cvae_tf import files
from cvae_tf.errors import InputError
from cvae_tf.pose import detector as blazepose
from cvae_tf.pose.skeleton import LANDMARKS
from cvae_tf.studio import scene

BODY = [k for k, name in enumerate(LANDMARKS) if name.split("_")[-1] in ("shoulder", "elbow", "hip", "knee", "ankle")]
NOBODY = {
    "black": np.zeros((60, 90, 3), np.uint8), "white": np.full((720, 1280, 3), 255, np.uint8),
    "noise": np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8), "pixel": np.zeros((1, 1, 3), np.uint8),
    "line": np.full((1, 900, 3), 90, np.uint8), "tower": np.full((900, 2, 3), 90, np.uint8),
}


@pytest.fixture(scope="module")
def shared():
    return blazepose.Detector(1)


@pytest.fixture
def detector(shared):
    shared.reset()
    return shared


@pytest.fixture(scope="module")
def studio():
    """Frames 256 pixels high, in the first of which a person stands, and the person's key points."""
    return scene.sequence(1, 256, 512, length=8)[0], scene.key_points(1, 256, 512, length=8).points


# ---------------------------------------------------------------------- geometry

@pytest.mark.parametrize("top, corner, opposite", [
    ((100, 100), (-25, 75), (225, 325)),  # standing: the square has 2 * 100 * 1.25 pixels
    ((100, 300), (225, 325), (-25, 75)),  # on the head
    ((200, 200), (225, 75), (-25, 325)),  # lying, head to the right
])
def test_region_is_the_upright_square_around_the_circle(top, corner, opposite):
    region = blazepose._region(np.array([100, 200]), np.array(top))
    assert region @ (0, 0, 1) == pytest.approx(corner)
    assert region @ (1, 1, 1) == pytest.approx(opposite)
    assert region @ (0.5, 0.5, 1) == pytest.approx((100, 200))
    assert region @ (0.5, 0.1, 1) == pytest.approx(top)  # the top of the circle, within the margin
    assert blazepose._box(region) == pytest.approx((0, 100, 200, 200))


def test_anchors_are_the_centres_of_the_cells():
    expected = [((column + 0.5) / cells, (row + 0.5) / cells) for cells, number in ((28, 2), (14, 2), (7, 6))
                for row in range(cells) for column in range(cells) for _ in range(number)]
    assert len(expected) == 2254
    assert np.allclose(blazepose._anchors(), expected)


def test_letterbox():
    picture = blazepose._letterbox(np.full((100, 50, 3), 255, np.uint8))
    assert picture.shape == (224, 224, 3) and picture.dtype == np.float32
    assert (picture[:, 56:168] == 1).all() and (picture[:, :56] == -1).all() and (picture[:, 168:] == -1).all()


@pytest.mark.parametrize("height, width, box", [(448, 448, (64, 156, 320, 320)), (448, 224, (-48, 156, 320, 320)),
                                                (224, 448, (64, 44, 320, 320))])
def test_detections_are_mapped_out_of_the_letterbox(height, width, box, detector, monkeypatch):
    output, scores = np.zeros((2254, 12), np.float32), np.full((2254, 1), -100, np.float32)
    anchor = 2 * (28 * 14 + 14)  # centre (14.5 / 28, 14.5 / 28) is pixel (116, 116) of 224
    scores[anchor] = 3
    output[anchor] = [0, 0, 20, 20, -4, 42, -4, -38, 0, 0, 0, 0]  # hips at (112, 158), top of the circle at (112, 78)
    monkeypatch.setattr(detector, "_detect", lambda picture: (output, scores))
    [(score, found)] = detector.people(np.zeros((height, width, 3), np.uint8))
    assert score == pytest.approx(1 / (1 + np.exp(-3)))
    assert found == pytest.approx(box, abs=1e-3)


def _spot(height, width, x, y, radius):
    """A picture with a round spot; the middle of the first pixel is at (0.5, 0.5)."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2 / radius ** 2)
    return np.uint8(np.rint(255 * spot))[..., None].repeat(3, axis=2)


@pytest.mark.parametrize("centre, top, spot, radius", [
    ((200, 150), (200, 80), (170.3, 120.8), 3), ((200, 150), (260, 110), (210.6, 170.1), 3),
    ((200, 150), (150, 190), (180, 160), 3), ((400, 300), (420, 20), (333.3, 222.2), 15),
    ((20, 30), (25, -60), (40.4, 50.9), 3), ((590, 390), (300, 390), (500.5, 333.3), 15),
    ((100, 100), (100, 90), (98.7, 103.2), 1.5), ((100, 1000), (100, -800), (300.2, 207), 40),
])
def test_what_the_network_sees_in_a_region_is_mapped_back_to_where_it_is(centre, top, spot, radius):
    region = blazepose._region(np.array(centre, float), np.array(top, float))
    seen = blazepose._crop(_spot(400, 600, *spot, radius), region)
    assert seen.shape == (256, 256, 3) and seen.dtype == np.float32 and 0.5 < seen.max() <= 1
    rows, columns = np.mgrid[:256, :256] + 0.5
    weight = np.where(seen[..., 0] > 0.05, seen[..., 0], 0)
    inside = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum() / 256
    assert region @ (*inside, 1) == pytest.approx(spot, abs=0.1 + 0.1 * radius / 3)


def test_outside_the_frame_its_border_is_repeated():
    frame = np.full((40, 60, 3), 51, np.uint8)
    for centre, top in (((30, 20), (30, -200)), ((-500, 20), (-500, -80)), ((900, 900), (950, 880)), ((5, 5), (5, 5))):
        assert np.allclose(blazepose._crop(frame, blazepose._region(np.array(centre), np.array(top))), 0.2)


def test_points_move_to_the_heat_near_them():
    heat = np.full((64, 64, 5), -50, np.float32)
    heat[20, 10] = 50  # row 20, column 10
    heat[20, 12, 1] = 50
    heat[63, 0, 2] = 50
    points = np.array([(11.5, 18.2), (10.1, 20.7), (0.5, 63.9), (30, 30), (-0.5, 20)]) / 64
    expected = np.array([(10, 20), (11, 20), (0, 63), (30, 30), (-0.5, 20)]) / 64
    assert np.allclose(blazepose._refined(points, heat), expected, atol=1e-6)


# ---------------------------------------------------------------------- suppression

def _common(a, b):
    """Intersection over union of boxes (left, top, right, bottom)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


@pytest.mark.parametrize("seed", range(5))
def test_merging_against_brute_force(seed):
    random = np.random.default_rng(seed)
    detections, scores = random.uniform(0.2, 0.8, (40, 6, 2)), random.permutation(np.linspace(0.5, 1, 40))
    left = [(score, one) for score, one in zip(scores, detections, strict=True)]
    expected = []
    while left:
        best = max(left, key=lambda pair: pair[0])
        corners = [(*(one[0] - one[1] / 2), *(one[0] + one[1] / 2)) for _, one in left]
        mine = corners[[one is best[1] for _, one in left].index(True)]
        same = [_common(mine, other) > 0.3 for other in corners]
        group = [pair for pair, yes in zip(left, same, strict=True) if yes]
        left = [pair for pair, yes in zip(left, same, strict=True) if not yes]
        total = sum(score for score, _ in group)
        expected.append((best[0], sum(score * one for score, one in group) / total))
    merged = blazepose._merged(scores, detections)
    assert 1 < len(merged) < 40 and len(merged) == len(expected)
    for (score, one), (best, mean) in zip(merged, expected, strict=True):
        assert score == best and np.allclose(one, mean)


# ---------------------------------------------------------------------- people

@pytest.mark.parametrize("name", NOBODY)
def test_nobody_is_found_where_nobody_is(name, detector):
    assert detector(NOBODY[name]) is None
    assert detector.people(NOBODY[name]) == []


@pytest.mark.parametrize("height", [32, 128, 256])
def test_points_of_the_studio_person(height, detector):
    frames, key_points = scene.sequence(1, height, 2 * height, length=4)[0], scene.key_points(
        1, height, 2 * height, length=4).points
    for frame, truth in zip(frames, key_points, strict=True):
        points, confidence = detector(frame)
        assert points.shape == (33, 2) and points.dtype == confidence.dtype == np.float32
        assert confidence.min() >= 0 and confidence.max() <= 1 and confidence[BODY].mean() > 0.7
        assert np.median(np.linalg.norm(points[BODY] - truth[BODY], axis=1)) < 0.06 * height
    assert len(detector.people(frames[0])) == 1


def test_box_of_the_studio_person(detector, studio):
    (frame, *_), (truth, *_) = studio
    [(score, (x, y, width, height))] = detector.people(frame)
    assert 0.5 <= score <= 1
    assert np.abs([x + width / 2, y + height / 2] - truth[[23, 24]].mean(axis=0)).max() < 15
    assert 0.7 * 256 < height == width < 1.2 * 256


def test_a_lying_person(detector, studio):
    frame, truth = studio[0][0], studio[1][0]
    points, _ = detector(np.ascontiguousarray(np.rot90(frame)))  # the right edge becomes the top
    turned = np.stack([truth[BODY, 1], 512 - truth[BODY, 0]], axis=1)
    assert np.median(np.linalg.norm(points[BODY] - turned, axis=1)) < 15


def test_the_detector_network_runs_only_without_a_track(detector, studio, monkeypatch):
    detect, runs = detector._detect, []
    monkeypatch.setattr(detector, "_detect", lambda picture: runs.append(0) or detect(picture))
    frame = studio[0][0]
    for _ in range(3):
        assert detector(frame) is not None
    assert len(runs) == 1
    track = detector.state
    detector.reset()
    assert detector(frame) is not None and len(runs) == 2
    detector.state = track
    assert detector(frame) is not None and len(runs) == 2


def test_who_has_left_is_not_invented(detector, studio):
    frame = studio[0][0]
    for empty in (np.broadcast_to(np.median(frame, axis=1, keepdims=True), frame.shape).astype(np.uint8),
                  frame[:, :200], np.roll(NOBODY["noise"], 1)):
        assert detector(frame) is not None
        empty = np.ascontiguousarray(empty)
        assert [detector(empty) for _ in range(3)] == [None] * 3
        assert detector(frame) is not None


def test_of_two_people_the_larger_one_and_then_the_same_one(detector, studio, monkeypatch):
    small, large = (blazepose._region(np.array([x, 150.0]), np.array([x, 150.0 - size]))
                    for x, size in ((100, 50), (400, 90)))
    tried = []

    def landmarks(frame, region):
        tried.append(region)
        return accept(region) and (np.zeros((33, 2), np.float32), np.ones(33, np.float32), region) or None

    monkeypatch.setattr(detector, "_landmarks", landmarks)
    monkeypatch.setattr(detector, "_detections", lambda frame: [(0.9, small), (0.8, large)])
    frame = studio[0][0]
    accept = lambda region: True  # noqa: E731
    detector(frame)
    assert np.array_equal(detector.state[0], large)
    detector.state = (small, False)  # lost, and found again where it was
    detector(frame)
    assert np.array_equal(detector.state[0], small)
    detector.reset()
    accept = lambda region: region is small  # noqa: E731
    tried.clear()
    assert detector(frame) is not None
    assert [region is small for region in tried] == [False, True]


# ---------------------------------------------------------------------- files

def _cut(folder):
    path = folder / blazepose.LANDMARKS
    path.write_bytes(path.read_bytes()[:100_000])


def _cut_with_checksums(folder):
    _cut(folder)
    (folder / files.CHECKSUMS).unlink()
    files.write_checksums(folder)


def _flip(folder):
    path = folder / blazepose.DETECTOR
    content = bytearray(path.read_bytes())
    content[1_000_000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm, name", [
    (shutil.rmtree, "missing"), (lambda folder: (folder / blazepose.DETECTOR).unlink(), "missing"),
    (lambda folder: (folder / blazepose.LANDMARKS).unlink(), "missing"),
    (lambda folder: (folder / files.CHECKSUMS).unlink(), "missing"), (_cut, "damaged"), (_flip, "damaged"),
    (lambda folder: (folder / files.CHECKSUMS).write_text(""), "empty"), (_cut_with_checksums, "cannot be loaded"),
])
def test_missing_and_damaged_files(harm, name, tmp_path, monkeypatch):
    folder = tmp_path / "blazepose"
    shutil.copytree(blazepose.FOLDER, folder)
    monkeypatch.setattr(blazepose, "FOLDER", folder)
    harm(folder)
    with pytest.raises(InputError, match=name) as error:
        blazepose.Detector(1)
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec("ai_edge_litert") is None, reason="needs ai_edge_litert")
def test_both_interpreters_agree(detector, studio, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    other = blazepose.Detector(1)
    for frame in studio[0]:
        (points, confidence), (others, other_confidence) = detector(frame), other(frame)
        assert np.abs(points - others).max() < 0.5 and np.abs(confidence - other_confidence).max() < 0.02


def test_number_of_threads_changes_nothing(detector, studio):
    points, _ = blazepose.Detector()(studio[0][0])
    assert np.abs(points - detector(studio[0][0])[0]).max() < 0.5
