"""Transfer motion to the body of another person, after "Everybody Dance Now" (Chan et al., 2019, section 3.3).

The driver is the person whose motion is taken; the target is the person who gets the motion. A person is described by
his body height and by where his ankles are while he stands on the floor, at the place nearest to the camera and at the
farthest. The driver's key points are scaled and moved so that they describe the target's body at the same place between
far and near.

Where this differs from the paper: near and far are percentiles instead of clusters; the body height is a sum of
lengths, so that it does not depend on the pose; the floor is found under jumps; the horizontal position is mapped as
well; and the lengths of limbs can be changed.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from cvae_tf.errors import InputError
from cvae_tf.pose.skeleton import LANDMARKS, other_side

SURE = 0.5  # lowest confidence of a point that counts in a measurement
NEAR, FAR = 95, 5  # percentiles of the ankles' positions
STANDING = 0.05  # in body heights: a person whose ankles move less than this does not come nearer
UPPER = 0.8  # quantile of measured lengths; most frames show a limb shortened, as it points to or from the camera
# Growth of the body height with the ankles' position: 1 divided by the camera's height in body heights. A person who
# does not grow does not come nearer; the camera moves instead.
FLATTEST, STEEPEST = 0.1, 4
IN_THE_AIR = 1.0  # longest jump in seconds
MOST_CHANGE = 1.5  # largest ratio between the limbs of two people; limbs seen from one side only may look shorter

FACE = LANDMARKS[:11]
HANDS = ("left_pinky", "left_index", "left_thumb")
# The tree of bones from the pelvis outward: parent, child, and the limb that gives the length.
BONES = (
    ("pelvis", "neck", "trunk"), ("neck", "head", "head"), *(("head", joint, "head") for joint in FACE),
    *((side(a), side(b), limb) for side in (str, other_side) for a, b, limb in (
        ("neck", "left_shoulder", "shoulder"), ("left_shoulder", "left_elbow", "upper_arm"),
        ("left_elbow", "left_wrist", "forearm"), *(("left_wrist", joint, "hand") for joint in HANDS),
        ("pelvis", "left_hip", "hip"), ("left_hip", "left_knee", "thigh"), ("left_knee", "left_ankle", "shank"),
        ("left_ankle", "left_heel", "foot"), ("left_ankle", "left_foot_index", "foot"))),
)
# The bones whose lengths are measured, by limb.
MEASURED = {"trunk": ("pelvis", "neck"), "head": ("neck", "head"), "shoulder": ("neck", "left_shoulder"),
            "upper_arm": ("left_shoulder", "left_elbow"), "forearm": ("left_elbow", "left_wrist"),
            "hand": ("left_wrist", "left_index"), "hip": ("pelvis", "left_hip"), "thigh": ("left_hip", "left_knee"),
            "shank": ("left_knee", "left_ankle"), "foot": ("left_ankle", "left_foot_index")}
LOWEST, HIGHEST = -2, 4  # limits of any number about a person ...
WIDEST = 64  # ... but of the horizontal position, so many times wider: pictures can be much wider than high


@dataclass(frozen=True)
class Person:
    """What retargeting needs to know about a person in his footage. The unit is the height of the picture.

    Attributes:
        near_ground, far_ground: the position of the ankles of the standing person, down from the top of the picture,
            at the place nearest to the camera and at the farthest.
        near_height, far_height: the body height there: from ankle over knee, hip and neck to the ears.
        centre: mean horizontal position, to the right from the middle of the picture.
        limbs: dict from the name of a limb to its length in body heights; without limbs that were never seen.
    """

    near_ground: float
    far_ground: float
    near_height: float
    far_height: float
    centre: float
    limbs: dict

    def to_dict(self):
        """The person as a dict for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content, path):
        """The inverse of `to_dict`.

        Args:
            content: the content of a JSON file.
            path: the file, for the message.

        Raises:
            InputError: ``content`` describes no person.
        """
        try:
            fields = {field.name for field in dataclasses.fields(cls)}
            if content.keys() != fields or not content["limbs"].keys() <= MEASURED.keys():
                raise ValueError("other names of numbers")
            limbs = {name: float(length) for name, length in content["limbs"].items()}
            person = cls(limbs=limbs, **{name: float(content[name]) for name in fields - {"limbs"}})
            heights = (person.near_height, person.far_height, *limbs.values())
            numbers = (person.near_ground, person.far_ground, person.centre / WIDEST, *heights)
            if not (all(LOWEST < n < HIGHEST for n in numbers) and min(heights) > 0
                    and person.near_ground >= person.far_ground):
                raise ValueError("numbers out of range")
        except Exception as error:
            raise InputError(f"{path}: does not describe a person ({type(error).__name__}: {error}); prepare the data "
                             "set again") from error
        return person


def measure(key_points, where="the footage"):
    """Measure a person in his footage.

    Only points in the picture with a confidence of at least `SURE` count. For a person who hardly comes
    nearer, or does not grow on the way, near and far are the same.

    Args:
        key_points: `KeyPoints` of T frames.
        where: name of the footage that the key points come from, for the message.

    Returns:
        `Person`.

    Raises:
        InputError: no frame shows a person from head to ankle.
    """
    joints = _sure_joints(key_points)
    ground, height = _ground(joints, key_points.fps), _body_height(joints)
    seen = ~np.isnan(height)
    if not seen.any():
        raise InputError(f"{where}: no frame shows a person from head to ankle, so the body height cannot be "
                         "measured; take footage with the whole body in the picture")
    near, far = np.percentile(ground[seen], [NEAR, FAR])
    moves = near - far > STANDING * np.quantile(height[seen], UPPER)
    growth = _growth(ground[seen], height[seen]) if moves else 0
    if growth < FLATTEST:
        growth, near, far = 0, *[np.mean(ground[seen])] * 2
    base = np.quantile((height - growth * ground)[seen], UPPER)
    near_height, far_height = np.clip(base + growth * np.array([near, far]), height[seen].min(), height[seen].max())
    height = far_height + _share(ground[seen], near, far) * (near_height - far_height)
    limbs = {}
    for limb, (a, b) in MEASURED.items():
        lengths = np.stack([_distance(joints, a, b), _distance(joints, other_side(a), other_side(b))])
        if limb in ("shoulder", "hip"):  # the middle is known only between both sides
            lengths = _distance(joints, b, other_side(b)) / 2
        lengths = lengths[..., seen] / height
        if not np.isnan(lengths).all():
            limbs[limb] = float(np.nanquantile(lengths, UPPER))
    centre = np.mean(joints["pelvis"][seen, 0])
    return Person(*map(float, (near, far, near_height, far_height, centre)), limbs)


def retarget(key_points, driver, target, size, limbs=False):
    """Fit the driver's motion to the target's body, in the target's picture.

    The place between far and near, 0 to 1, comes from the driver's ankles on the floor. It gives the position of the
    target's ankles and the scale, by linear interpolation as in the paper. Beyond near and far, the scale is
    constant, and the ankles' motion is multiplied by it. A driver who does not come nearer is put halfway between the
    target's far and near, with the scale of that place. The driver's mean horizontal position becomes that of the
    target.

    Args:
        key_points: the driver's `KeyPoints` of T frames.
        driver, target: `Person`, each from `measure`.
        size: (width, height) of the target's picture in pixels.
        limbs: give each limb the target's length. The lower ankle keeps its height above the floor.

    Returns:
        `KeyPoints` of T frames in a picture of ``size``; missing points stay missing.
    """
    ground = _ground(_sure_joints(key_points), key_points.fps)
    ground = np.where(np.isnan(ground), (driver.near_ground + driver.far_ground) / 2, ground)
    share = _share(ground, driver.near_ground, driver.far_ground)
    near_scale, far_scale = target.near_height / driver.near_height, target.far_height / driver.far_height
    scale = (far_scale + share * (near_scale - far_scale))[:, None]
    origin = np.stack([np.full(len(share), driver.centre),
                       driver.far_ground + share * (driver.near_ground - driver.far_ground)], 1)
    place = np.stack([np.full(len(share), target.centre),
                      target.far_ground + share * (target.near_ground - target.far_ground)], 1)
    moved = {name: place + scale * (joint - origin) for name, joint in _in_heights(key_points).items()}
    if limbs:
        moved = _with_limbs(moved, {limb: target.limbs[limb] / driver.limbs[limb]
                                    for limb in driver.limbs.keys() & target.limbs.keys()})
    width, height = size
    points = np.stack([moved[name] for name in LANDMARKS], 1) * height + [width / 2, 0]
    return dataclasses.replace(key_points, points=points.astype(np.float32), size=(width, height))


def _in_heights(key_points):
    """The joints (T, 2) float64 in heights of the picture: x from its middle, y from its top."""
    width, height = key_points.size
    return {name: (joint.astype(float) - [width / 2, 0]) / height for name, joint in key_points.joints().items()}


def _sure_joints(key_points):
    """As `_in_heights`, with NaN for points that do not count.

    Where the joint of one side is hidden, as in a person seen from the side, the joint of the other side stands for the
    middle. It does not where the missing joint lies outside the picture.
    """
    points = key_points.points
    outside = ((points < 0) | (points > np.float32(key_points.size))).any(axis=2)
    unsure = outside | (key_points.confidence < SURE)
    joints = _in_heights(dataclasses.replace(key_points, points=np.where(unsure[..., None], np.nan, points)))
    for middle, side in (("neck", "left_shoulder"), ("pelvis", "left_hip"), ("head", "left_ear"), ("head", "nose")):
        for joint in (side, other_side(side)):
            hidden = np.isnan(joints[middle][:, 0]) & ~outside[:, LANDMARKS.index(other_side(joint))]
            joints[middle] = np.where(hidden[:, None], joints[joint], joints[middle])
    return joints


def _distance(joints, a, b):
    return np.linalg.norm(joints[a] - joints[b], axis=1)


def _body_height(joints):
    """(T,) the length from the ankle over knee, hip and neck to the head, with the longer of the two legs."""
    legs = [_distance(joints, f"{side}_hip", f"{side}_knee") + _distance(joints, f"{side}_knee", f"{side}_ankle")
            for side in ("left", "right")]
    return np.fmax(*legs) + _distance(joints, "pelvis", "neck") + _distance(joints, "neck", "head")


def _growth(ground, height):
    """How the body height grows with the ankles' position, from those of N frames.

    On a flat floor, the body height is a linear function of that position. The line is fitted to the `UPPER` quantile
    (quantile regression, Koenker and Bassett, 1978), by iteratively reweighted least squares.
    """
    weights = np.ones_like(height)
    for _ in range(30):
        line = np.polynomial.Polynomial.fit(ground, height, 1, w=np.sqrt(weights))
        error = height - line(ground)
        weights = np.where(error > 0, UPPER, 1 - UPPER) / np.maximum(np.abs(error), 1e-4)
    return np.clip(line.deriv()(0), 0, STEEPEST)


def _ground(joints, fps):
    """(T,) the position of the ankles if the person stood on the floor, smooth over time; NaN if never seen.

    The lower ankle is the one on the floor. A morphological closing (the maximum, then the minimum over a
    window) bridges jumps, which are shorter than the window, and keeps slow walks to and from the camera.
    """
    lower = np.fmax(joints["left_ankle"][:, 1], joints["right_ankle"][:, 1])
    there = np.flatnonzero(~np.isnan(lower))
    if not len(there):
        return lower
    steps = [(round(seconds * fps / 2), function) for seconds, function in
             ((0.2, np.median), (IN_THE_AIR, np.max), (IN_THE_AIR, np.min), (0.3, np.mean))]
    values = np.interp(np.arange(len(lower)), there, lower[there])
    values = np.pad(values, sum(half for half, _ in steps), mode="edge")
    for half, function in steps:
        values = function(np.lib.stride_tricks.sliding_window_view(values, 2 * half + 1), axis=1)
    return values


def _share(ground, near, far):
    """The place between far (0) and near (1); 0.5 if far and near are the same."""
    return np.clip((ground - far) / (near - far), 0, 1) if near > far else np.full(len(ground), 0.5)


def _with_limbs(joints, ratios):
    """Joints (T, 2) by name with each bone scaled by its limb's ratio; the lower ankle keeps its vertical position."""
    shift = {"pelvis": np.zeros_like(joints["pelvis"])}
    for parent, child, limb in BONES:
        ratio = np.clip(ratios.get(limb, 1), 1 / MOST_CHANGE, MOST_CHANGE)
        # A bone with a missing end does not move what lies beyond it.
        shift[child] = shift[parent] + np.nan_to_num((ratio - 1) * (joints[child] - joints[parent]))
    longer = {name: joint + shift[name] for name, joint in joints.items()}
    sink = _lower_ankle(longer) - _lower_ankle(joints)
    there = np.flatnonzero(~np.isnan(sink))
    if len(there):
        sink = np.interp(np.arange(len(sink)), there, sink[there])
        longer = {name: joint - np.stack([np.zeros_like(sink), sink], 1) for name, joint in longer.items()}
    return longer


def _lower_ankle(joints):
    return np.fmax(joints["left_ankle"][:, 1], joints["right_ankle"][:, 1])
