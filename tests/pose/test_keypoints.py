import dataclasses
import json

import numpy as np
import pytest

from cvae_tf.errors import InputError
from cvae_tf.pose.keypoints import KeyPoints, read_poses, write_poses
from cvae_tf.pose.skeleton import COCO, LANDMARKS

NAN = np.nan
INDEX = {name: k for k, name in enumerate(LANDMARKS)}


def _key_points(count=6, seed=0, size=(640, 480), fps=25.0):
    """Random key points, of which some points are missing, and in frame 2 all."""
    random = np.random.default_rng(seed)
    points = random.uniform(-50, 700, (count, 33, 2)).astype(np.float32)
    points[random.random((count, 33)) < 0.2] = NAN
    points[2:3] = NAN
    confidence = np.where(np.isnan(points[..., 0]), 0, random.uniform(0.1, 1, (count, 33))).astype(np.float32)
    return KeyPoints(points, confidence, size, fps)


def _names(key_points):
    return [f"frame{t:08d}.png" for t in range(len(key_points))]


def _written(tmp_path, key_points):
    path = tmp_path / "poses.json"
    write_poses(path, key_points, _names(key_points))
    return path


def _same(result, expected, atol=0.0):
    np.testing.assert_allclose(result.points, expected.points, rtol=0, atol=atol)
    np.testing.assert_allclose(result.confidence, expected.confidence, rtol=0, atol=atol)
    assert (tuple(result.size), result.fps) == (tuple(expected.size), expected.fps)
    assert result.points.dtype == result.confidence.dtype == np.float32


def test_from_named_joints():
    joints = {"nose": np.array([[1, 2], [NAN, NAN]]), "left_knee": np.array([[3, 4], [5, 6]]), "neck": np.zeros((2, 2))}
    result = KeyPoints.from_joints(joints, (64, 32), 30, confidence=0.5)
    expected = np.full((2, 33, 2), NAN)
    expected[0, INDEX["nose"]], expected[:, INDEX["left_knee"]] = (1, 2), [(3, 4), (5, 6)]
    np.testing.assert_array_equal(result.points, expected)
    np.testing.assert_array_equal(result.confidence, 0.5 * ~np.isnan(expected[..., 0]))
    assert result.size == (64, 32) and result.fps == 30 and len(result) == 2


def test_frames_are_chosen_and_those_with_a_person_are_known():
    key_points = _key_points()
    assert key_points.present.tolist() == [True, True, False, True, True, True]
    for frames in (slice(1, 4), np.array([5, 0, 0])):
        result = key_points[frames]
        np.testing.assert_array_equal(result.points, key_points.points[frames])
        np.testing.assert_array_equal(result.confidence, key_points.confidence[frames])
    key_points.points[2, 31] = 4
    assert key_points.present.all()


def test_joints_between_landmarks():
    key_points = _key_points()
    joints = key_points.joints()
    assert set(joints) == {*LANDMARKS, "neck", "pelvis", "head"}
    for name, part in (("neck", "shoulder"), ("pelvis", "hip"), ("head", "ear")):
        left, right = (key_points.points[:, INDEX[f"{side}_{part}"]] for side in ("left", "right"))
        np.testing.assert_allclose(joints[name], (left + right) / 2)
    np.testing.assert_array_equal(joints["left_heel"], key_points.points[:, 29])


def test_mirrored():
    key_points = _key_points()
    result = key_points.mirrored()
    for name, k in INDEX.items():
        other = name.replace("left", "*").replace("right", "left").replace("*", "right")
        x, y = key_points.points[:, INDEX[other]].T
        np.testing.assert_allclose(result.points[:, k], np.stack([640 - x, y], 1), atol=1e-4)
        np.testing.assert_array_equal(result.confidence[:, k], key_points.confidence[:, INDEX[other]])
    _same(result.mirrored(), key_points, atol=1e-3)


def test_cropped_by_hand():
    points = np.full((1, 33, 2), NAN, np.float32)
    points[0, :3] = (100, 50), (300, 450), (0, 0)
    key_points = KeyPoints(points, np.ones((1, 33), np.float32), (640, 480), 25)
    result = key_points.cropped((100, 50, 200, 400), (64, 32))
    np.testing.assert_allclose(result.points[0, :3], [(0, 0), (64, 32), (-32, -4)])
    assert result.size == (64, 32) and np.isnan(result.points[0, 3:]).all() and result.points.dtype == np.float32
    beyond = key_points.cropped((-100, -50, 840, 580), (840, 580))
    np.testing.assert_allclose(beyond.points[0, :3], points[0, :3] + (100, 50))


@pytest.mark.parametrize("fps, new", [(25, 20), (30, 24), (29.97, 20), (10, 30), (25, 25), (25, 1)])
def test_resampled_as_numpy_interpolates(fps, new):
    key_points = _key_points(50, fps=fps)
    key_points.points[:] = np.random.default_rng(1).uniform(0, 640, (50, 33, 2))
    key_points.confidence[:] = np.random.default_rng(2).uniform(0, 1, (50, 33))
    result = key_points.resampled(new)
    assert len(result) == round(50 / fps * new) and result.fps == new
    times = np.arange(len(result)) / new * fps
    for k in (0, 16, 32):
        for axis in (0, 1):
            expected = np.interp(times, np.arange(50), key_points.points[:, k, axis])
            np.testing.assert_allclose(result.points[:, k, axis], expected, atol=1e-3)
        expected = np.interp(times, np.arange(50), key_points.confidence[:, k])
        np.testing.assert_allclose(result.confidence[:, k], expected, atol=1e-5)
    assert result.points.dtype == result.confidence.dtype == np.float32


def test_resampled_beside_missing_points():
    points = np.repeat(np.float32([1, 2, NAN, 4, 5])[:, None, None], 33, 1).repeat(2, 2)
    key_points = KeyPoints(points, np.where(np.isnan(points[..., 0]), 0, 1).astype(np.float32), (9, 9), 10)
    result = key_points.resampled(20)
    np.testing.assert_allclose(result.points[:, 0, 0], [1, 1.5, 2, NAN, NAN, NAN, 4, 4.5, 5, 5])
    np.testing.assert_allclose(result.confidence[:, 0], [1, 1, 1, 0, 0, 0, 1, 1, 1, 1])
    _same(key_points.resampled(10), key_points)


def test_a_file_gives_back_what_was_written(tmp_path):
    key_points = _key_points(fps=29.97)
    result, names = read_poses(_written(tmp_path, key_points))
    _same(result, key_points, atol=0.0051)
    assert names == _names(key_points)
    np.testing.assert_array_equal(result.present, key_points.present)
    assert type(result.size) is tuple


def test_nobody_in_any_frame_is_no_error(tmp_path):
    nobody = KeyPoints(np.full((2, 33, 2), NAN, np.float32), np.zeros((2, 33), np.float32), (64, 32), 25.0)
    _same(read_poses(_written(tmp_path, nobody))[0], nobody)


def test_the_file_follows_cocos_format(tmp_path):
    """https://cocodataset.org/#format-data, of images, annotations and categories for key points."""
    key_points = _key_points()
    content = json.loads(_written(tmp_path, key_points).read_text())
    assert [(image["id"], image["file_name"], image["width"], image["height"]) for image in content["images"]] == \
        [(t, f"frame{t:08d}.png", 640, 480) for t in range(6)]
    category, = content["categories"]
    assert category["name"] == "person" and category["keypoints"] == list(COCO) and len(category["keypoints"]) == 17
    assert [annotation["image_id"] for annotation in content["annotations"]] == [0, 1, 3, 4, 5]
    assert len({annotation["id"] for annotation in content["annotations"]}) == 5
    for annotation in content["annotations"]:
        points = key_points.points[annotation["image_id"]]
        assert annotation["category_id"] == category["id"] and annotation["iscrowd"] == 0
        assert len(annotation["keypoints"]) == 3 * 17
        for name, (x, y, visibility) in zip(COCO, np.reshape(annotation["keypoints"], (17, 3)), strict=True):
            if np.isnan(points[INDEX[name], 0]):
                assert (x, y, visibility) == (0, 0, 0)
            else:
                np.testing.assert_allclose((x, y), points[INDEX[name]], atol=0.0051)
                assert visibility == 2
        assert annotation["num_keypoints"] == np.count_nonzero(annotation["keypoints"][2::3])
        x, y, width, height = annotation["bbox"]
        low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
        np.testing.assert_allclose([x, y, x + width, y + height], [*low, *high], atol=0.02)
        assert annotation["area"] == pytest.approx(width * height, abs=0.01)


def _change(*keys, value):
    def change(content):
        place = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
    return change


@pytest.mark.parametrize("change", [
    lambda c: c.pop("images"), lambda c: c.pop("info"), lambda c: c.pop("annotations"),
    _change("images", value=[]), _change("images", value={}), _change("images", 0, value=None),
    _change("images", 0, "width", value=320), _change("images", 0, "id", value=1),
    _change("info", "fps", value=0), _change("info", "fps", value=-5), _change("info", "fps", value=NAN),
    _change("info", "fps", value="fast"), _change("info", "fps", value=None),
    _change("annotations", 0, "image_id", value=77), _change("annotations", 0, "image_id", value=[]),
    _change("annotations", 0, "landmarks", value=[]), _change("annotations", 0, "landmarks", value=[1, 2, 0.5]),
    _change("annotations", 0, "landmarks", value=[1, 2] * 33), _change("annotations", 0, "landmarks", 4, value=NAN),
    _change("annotations", 0, "landmarks", 4, value=1e300), _change("annotations", 0, "landmarks", 4, value="x"),
    _change("annotations", 0, "landmarks", 5, value=1.5), _change("annotations", 0, "landmarks", 5, value=-0.5),
    _change("annotations", 0, value=3), lambda c: [image.update(width=0) for image in c["images"]],
    lambda c: c["annotations"][0].pop("landmarks"),
])
def test_a_damaged_file_is_refused(change, tmp_path):
    path = _written(tmp_path, _key_points())
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="poses.json: not a readable file of key points"):
        read_poses(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"images": 3}', b"\xff\xfe", b"{" * 5000, b"[" * 100_000])
def test_what_is_no_such_file_is_refused(content, tmp_path):
    (tmp_path / "poses.json").write_bytes(content)
    with pytest.raises(InputError, match="poses.json"):
        read_poses(tmp_path / "poses.json")


def test_no_file_and_no_place_for_one(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match="not a readable file"):
            read_poses(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_poses(tmp_path / "file" / "poses.json", _key_points(), _names(_key_points()))


def test_key_points_cannot_be_assigned():
    with pytest.raises(dataclasses.FrozenInstanceError):
        _key_points().fps = 3
