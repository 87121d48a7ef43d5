"""Key points of a person in the frames of a video, found by the networks of BlazePose.

Source: Bazarevsky et al. 2020, "BlazePose: On-device Real-time Body Pose tracking", arXiv 2006.10204. The two networks
are in the folder ``blazepose``, see its ``NOTICE``. The detector network finds people in a whole picture. The landmark
network finds the 33 landmarks of one person in an upright square that contains the whole body, called the region. As
long as the landmark network sees a person, the landmarks of one frame give the region of the next frame. Sizes,
anchors, margins and thresholds are those with which MediaPipe runs these networks.
"""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from cvae_tf import files
from cvae_tf.errors import InputError

FOLDER = Path(__file__).with_name("blazepose")
DETECTOR, LANDMARKS = "pose_detection.tflite", "pose_landmark_full.tflite"
DETECTOR_SIZE, LANDMARK_SIZE = 224, 256  # width and height in pixels of the networks' inputs
GRIDS = ((28, 2), (14, 2), (7, 6))  # of the detector network: cells in a row, and anchors in each cell
MARGIN = 1.25  # size of the region relative to the circle around the body
SCORE = 0.5  # least score of a person, in both networks
OVERLAP = 0.3  # two detections with a larger intersection over union are of the same person
THREADS = 4  # largest number that is chosen by default: the networks are small


class Detector:
    """Finds the landmarks of one person in the frames of one video, and follows this person from frame to frame.

    Args:
        threads: number of threads of the networks; None: one for each processor, but at most `THREADS`.

    Raises:
        InputError: a file of the networks is missing or damaged.
    """

    def __init__(self, threads=None):
        for name in (DETECTOR, LANDMARKS, files.CHECKSUMS):
            if not (FOLDER / name).is_file():
                raise InputError(f"{FOLDER / name}: is missing; install cvae_tf again")
        files.check_checksums(FOLDER)
        threads = threads or min(os.cpu_count() or 1, THREADS)
        self._detect = _network(FOLDER / DETECTOR, threads)
        self._find_landmarks = _network(FOLDER / LANDMARKS, threads)
        self.reset()

    def reset(self):
        """Forget the person, as after a cut. The next frame is searched for the largest person."""
        self._region = None  # where the person was last seen
        self._tracking = False

    @property
    def state(self):
        """``(region, tracking)``: where the person was last seen, and whether in the last frame. Set it to continue."""
        return self._region, self._tracking

    @state.setter
    def state(self, state):
        self._region, self._tracking = state

    def __call__(self, frame):
        """Find the person in the next frame of the video.

        Args:
            frame: (H, W, 3) uint8, RGB.

        Returns:
            None if nobody is found, or else ``(points, confidence)`` of the person's landmarks. The points are
            (33, 2) float32, x and y in pixels; the first pixel extends from 0 to 1. The confidence, (33,) float32 in
            [0, 1], is the landmark network's probability that a point is visible. It is low for hidden points and for
            points outside the frame.
        """
        found = self._landmarks(frame, self._region) if self._tracking else None
        if found is not None:
            found = (*found[:2], (self._region + found[2]) / 2)  # a steady region gives steadier points
        else:
            found = next((one for region in self._regions(frame)
                          if (one := self._landmarks(frame, region)) is not None), None)
        self._tracking = found is not None
        if not self._tracking:
            return None
        points, confidence, self._region = found
        return points, confidence

    def people(self, frame):
        """Find all people in a frame, with the detector network alone.

        Args:
            frame: (H, W, 3) uint8, RGB.

        Returns:
            List of (score in [0, 1], box), the highest score first. The box is (x, y, width, height) in pixels of
            the square around the body; it may reach beyond the frame.
        """
        return [(score, _box(region)) for score, region in self._detections(frame)]

    def _detections(self, frame):
        """List of (score, region), one for each person, the highest score first."""
        output, scores = self._detect(_letterbox(frame))
        scores = _sigmoid(scores[:, 0])
        likely = scores >= SCORE
        # Centre and size of the face's box, and four points: middle of the hips, a point at the top of the circle
        # around the body, and the same for the upper body. All are relative to the anchor.
        numbers = output[likely].reshape(-1, 6, 2) / DETECTOR_SIZE
        numbers[:, [0, 2, 3, 4, 5]] += _anchors()[likely][:, None]
        people = _merged(scores[likely], numbers)
        height, width = frame.shape[:2]
        side = max(height, width)
        return [(float(score), _region(*(one[2:4] * side - (side - np.array([width, height])) / 2)))
                for score, one in people]

    def _regions(self, frame):
        """Regions of the people in a frame: first those who overlap the last known region, then the largest."""
        regions = [region for _, region in self._detections(frame)]
        return sorted(regions, key=lambda region: (
            _overlap(_box(region), _box(self._region)) if self._region is not None else 0, _box(region)[2]),
            reverse=True)

    def _landmarks(self, frame, region):
        """Points, confidence and next region of the person in a region, or None if nobody is there."""
        output, score, _, heat, _ = self._find_landmarks(_crop(frame, region))
        if score.item() < SCORE:
            return None
        numbers = output.reshape(39, 5)  # x, y, z, and logits that the landmark is visible and that it is in the square
        points = _refined(numbers[:, :2] / LANDMARK_SIZE, heat) @ region[:, :2].T + region[:, 2]
        return np.float32(points[:33]), _sigmoid(numbers[:33, 3]), _region(points[33], points[34])


def _network(path, threads):
    """Load a network: a function from its input to the list of its outputs, both without the batch axis."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:  # the same interpreter, which TensorFlow is going to remove
        from tensorflow import lite
        Interpreter = lite.Interpreter
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
            interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be loaded ({error}); install cvae_tf again") from error
    source = interpreter.get_input_details()[0]["index"]
    results = [output["index"] for output in interpreter.get_output_details()]

    def run(picture):
        interpreter.set_tensor(source, picture[None])
        interpreter.invoke()
        return [interpreter.get_tensor(result)[0] for result in results]
    return run


def _anchors():
    """Centres of the cells of the detector network's grids, (2254, 2), x and y in [0, 1], in the network's order."""
    anchors = []
    for cells, number in GRIDS:
        y, x = (np.mgrid[:cells, :cells] + 0.5) / cells
        anchors.append(np.stack([x, y], -1).reshape(-1, 2).repeat(number, axis=0))
    return np.concatenate(anchors)


def _letterbox(frame):
    """The whole frame in the middle of the detector network's input, (224, 224, 3) float32 in [-1, 1], on black."""
    size = np.array([frame.shape[1], frame.shape[0]])
    inner = np.maximum(1, np.rint(size * DETECTOR_SIZE / size.max()).astype(int))
    image = Image.new("RGB", (DETECTOR_SIZE, DETECTOR_SIZE))
    image.paste(Image.fromarray(frame).resize(inner, Image.Resampling.BILINEAR, reducing_gap=2),
                tuple((DETECTOR_SIZE - inner) // 2))
    return np.float32(image) / 127.5 - 1


def _merged(scores, detections):
    """Weighted non-maximum suppression: detections of the same person become one, their mean weighted with the scores.

    Args:
        scores: (N,) in [0, 1].
        detections: (N, P, 2): centre and size of a box, then points.

    Returns:
        List of (highest score, mean detection (P, 2)), the highest score first.
    """
    boxes = np.concatenate([detections[:, 0] - detections[:, 1] / 2, detections[:, 1]], axis=1)
    left = np.argsort(-scores, kind="stable")
    people = []
    while len(left):
        same = np.array([_overlap(boxes[left[0]], boxes[other]) > OVERLAP for other in left])
        same[0] = True
        chosen = left[same]
        people.append((scores[chosen[0]], np.average(detections[chosen], axis=0, weights=scores[chosen])))
        left = left[~same]
    return people


def _overlap(box, other):
    """Intersection over union of two boxes (x, y, width, height)."""
    box, other = np.asarray(box), np.asarray(other)
    sides = np.minimum(box[:2] + box[2:], other[:2] + other[2:]) - np.maximum(box[:2], other[:2])
    common = np.prod(np.maximum(sides, 0))
    union = np.prod(box[2:]) + np.prod(other[2:]) - common
    return common / union if union > 0 else 0.0


def _region(centre, top):
    """The upright square around a circle, somewhat larger, as a map from the unit square to the frame.

    Args:
        centre: (2,) middle of the hips in pixels.
        top: (2,) the point of the circle around the body that is above the head when the person stands.

    Returns:
        (2, 3): ``region @ (u, v, 1)`` is a point of the frame in pixels, for u (right) and v (down) in [0, 1] in the
        square, in which the person is upright.
    """
    up = 2 * MARGIN * (top - centre)
    axes = np.stack([[-up[1], up[0]], -up], axis=1)
    return np.column_stack([axes, centre - axes.sum(axis=1) / 2])


def _box(region):
    """The box (x, y, width, height) of the body in a region: the square around the circle, with level sides."""
    centre = region @ (0.5, 0.5, 1)
    side = float(np.hypot(*region[:, 0])) / MARGIN
    return (*(float(x) - side / 2 for x in centre), side, side)


def _crop(frame, region):
    """The part of a frame in a region, (256, 256, 3) float32 in [0, 1]; outside the frame, its border is repeated."""
    size = np.array([frame.shape[1], frame.shape[0]])
    corners = region @ [[0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]]
    low, high = np.floor(corners.min(axis=1)).astype(int), np.ceil(corners.max(axis=1)).astype(int)
    start = np.clip(low, 0, size - 1)
    end = np.clip(high, start + 1, size)
    factor = max(1, int(np.hypot(*region[:, 0]) / LANDMARK_SIZE))  # the picture is reduced first, against aliasing
    part = Image.fromarray(np.ascontiguousarray(frame[start[1]:end[1], start[0]:end[0]])).reduce(factor)
    before, after = (np.maximum(0, -(-beyond // factor)) + 1 for beyond in (start - low, high - end))
    padded = np.pad(part, [(before[1], after[1]), (before[0], after[0]), (0, 0)], mode="edge")
    matrix = np.column_stack([region[:, :2] / LANDMARK_SIZE / factor, (region[:, 2] - start) / factor + before])
    return np.float32(Image.fromarray(padded).transform((LANDMARK_SIZE, LANDMARK_SIZE), Image.Transform.AFFINE,
                                                        matrix.ravel(), Image.Resampling.BILINEAR)) / 255


def _refined(points, heat):
    """Points moved to the centre of the heat around them, which halves their error.

    Args:
        points: (N, 2) in [0, 1] in the square.
        heat: (64, 64, N) logits, the landmark network's map of where each point may be; cell k is at k / 64.

    Returns:
        (N, 2). A point without heat around it, or outside the square, stays where it is.
    """
    cells, reach = len(heat), 3
    cell = np.floor(points * cells).astype(int)
    inside = ((cell >= 0) & (cell < cells)).all(axis=1)
    columns, rows = np.where(inside[:, None], cell, 0).T[..., None] + np.arange(-reach, reach + 1)
    padded = np.pad(heat, [(reach, reach), (reach, reach), (0, 0)], constant_values=-100)  # no heat outside the map
    which = np.arange(len(points))[:, None, None]
    near = _sigmoid(padded[rows[:, :, None] + reach, columns[:, None] + reach, which])  # (N, 7, 7)
    centre = np.stack([(near.sum(axis=1) * columns).sum(axis=1), (near.sum(axis=2) * rows).sum(axis=1)], axis=1)
    hot = inside & (near.max(axis=(1, 2)) >= 0.5)
    return np.where(hot[:, None], centre / np.maximum(near.sum(axis=(1, 2)), 1e-9)[:, None] / cells, points)


def _sigmoid(x):
    return (1 + np.tanh(x / 2)) / 2  # unlike 1 / (1 + exp(-x)), never overflows
