"""The box of the picture that becomes the frames."""

import numpy as np
import pytest

from cvae_tf.errors import InputError
from cvae_tf.pose.keypoints import KeyPoints
from cvae_tf.preparation import crop


def _walker(left, right, top, bottom, size, count=41):
    """A person of two points who walks from ``left`` to ``right``."""
    points = np.full((count, 33, 2), np.nan, np.float32)
    x = np.linspace(left, right, count)
    points[:, 0] = np.stack([x, np.full(count, top)], 1)
    points[:, 27] = np.stack([x, np.full(count, bottom)], 1)
    return KeyPoints(points, np.isfinite(points[..., 0]).astype(np.float32), size, 20)


def test_the_box_of_a_track_and_the_persons_height():
    (left, top, right, bottom), person = crop.track_box(_walker(100, 300, 50, 250, (400, 300)))
    assert (left, right) == (pytest.approx(100, abs=2), pytest.approx(300, abs=2))
    assert (top, bottom, person) == (50, 250, 200)


def test_one_wrong_frame_does_not_widen_the_box():
    track = _walker(100, 110, 50, 250, (400, 300), count=1000)
    track.points[500] += 90
    (_, _, right, _), _ = crop.track_box(track)
    assert right < 112


def test_a_person_gets_a_margin_and_the_shape_of_the_frames():
    ((x, y, width, height),), size = crop.person_boxes([_walker(400, 600, 200, 400, (1000, 600))], 64)
    # 200 pixels of walk and 200 of height, and 0.12 * 200 around them: 248 by 248.
    assert size == (64, 64)
    assert (x, y, width, height) == pytest.approx((376, 176, 248, 248), abs=3)


def test_a_box_never_leaves_the_picture_and_is_never_squeezed():
    for size in ((1000, 600), (300, 600), (500, 250), (640, 480), (1080, 1920)):
        track = _walker(0.02 * size[0], 0.98 * size[0], 0.05 * size[1], 0.97 * size[1], size)
        for height in (8, 32, 64, 128):
            (box,), (frame_width, _) = crop.person_boxes([track], height)
            x, y, w, h = box
            assert 0 <= x <= x + w <= size[0] and 0 <= y <= y + h <= size[1]
            assert frame_width % 8 == 0
            assert abs(w / h / (frame_width / height) - 1) < 1.5 / min(w, h) + 1.5 / max(w, h)


def test_two_videos_show_the_person_at_one_size():
    near, far = _walker(400, 600, 100, 500, (1000, 600)), _walker(200, 300, 100, 200, (640, 480))
    boxes, _ = crop.person_boxes([near, far], 64)
    assert boxes[0][3] / 400 == pytest.approx(boxes[1][3] / 100, rel=0.02)


@pytest.mark.parametrize("box, picture, expected, width", [
    (None, (1280, 720), (0, 0, 1280, 720), 56 * 2),  # 64 * 16 / 9 = 113.8, to the nearest multiple of 8
    ((100, 0, 400, 400), (1280, 720), (100, 0, 400, 400), 64),
    ((0, 0, 100, 400), (1280, 720), (0, 0, 100, 400), 16),
])
def test_a_fixed_box_is_cut_to_the_shape_of_the_frames(box, picture, expected, width):
    found, size = crop.fixed_box(box, picture, 64)
    assert size == (width, 64)
    x, y, w, h = box or (0, 0, *picture)
    assert x <= found[0] and y <= found[1] and found[0] + found[2] <= x + w and found[1] + found[3] <= y + h
    assert abs(found[2] * 64 / (found[3] * width) - 1) < 0.02
    assert found[2] == expected[2] or found[3] == expected[3]  # only one side is cut


@pytest.mark.parametrize("text", ["", "me", "1,2,3", "1,2,3,4,5", "-1,0,5,5", "0,0,0,5", "0,0,5,x", "1.5,0,5,5"])
def test_a_crop_that_cannot_be_read_is_refused(text):
    with pytest.raises(InputError, match="--crop"):
        crop.read_crop(text)


def test_a_crop_is_read():
    assert crop.read_crop("person") == "person"
    assert crop.read_crop("10,20,300,400") == (10, 20, 300, 400)


@pytest.mark.parametrize("box, size", [((200, 100), (64, 32)), ((100, 200), (32, 64)), ((300, 300), (48, 48)),
                                       ((1280, 720), (56, 32)), ((380, 960), (32, 80)), ((360, 960), (24, 64))])
def test_frames_have_about_2048_pixels_where_no_height_is_given(box, size):
    assert crop.frame_size(0, *box) == size
    assert crop.frame_size(40, *box)[1] == 40


@pytest.mark.parametrize("box", [(10**4, 1), (1, 10**4), (1, 1)])
def test_frames_of_extreme_boxes_can_be_trained_on(box):
    width, height = crop.frame_size(0, *box)
    assert 8 <= width <= 1024 and 16 <= height <= 512 and not width % 8 and not height % 8
