"""Motion capture in BVH files (Biovision): reading, forward kinematics, and a camera that makes key points."""

import re
import warnings
from dataclasses import dataclass

import numpy as np

from cvae_tf.errors import InputError
from cvae_tf.files import plain
from cvae_tf.pose.keypoints import KeyPoints

LARGEST = 2**28  # size of a file in bytes
MOST_JOINTS, MOST_FRAMES = 1000, 10**6
MOST_POSITIONS = 20_000_000  # frames times joints, which is half an hour of a detailed body at 120 frames per second
RATES = (0.1, 1000)  # frames per second
MARGIN = 0.1  # share of the picture that stays free on each side of the motion
VIEWS = {"front": 0, "side": 90}
AXES = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}  # a rotation about an axis turns the first of these towards the second

# Names of the parts of a body in the programs that write BVH, in lower case and without sides and separators. Where a
# rig has several of them, the first one of a row counts: "arm" is before "shoulder", because in a rig with both,
# "shoulder" is the collar bone. "end" is at an End Site. A joint is used once, by the first row that names it.
PARTS = {
    "knee": "knee lowerleg lowleg leglower shin shinbend calf tibia shank leg",
    "hip": "upleg upperleg legupper thigh thighbend hip femur hipjoint leg",
    "elbow": "elbow forearm forearmbend lowerarm lowarm armlower radius",
    "shoulder": "upperarm uparm armupper arm humerus shldrbend shldr shoulder",
    "wrist": "wrist hand",
    "ankle": "ankle foot",
    "foot_index": "toeend toesend toebaseend ballend toe0end toe toes toebase ball toe0 foot footend ankleend",
    "heel": "heel heelend",
    "index": "handindex1 index1 index01 findex01 indexproximal indexfinger1 finger1 finger10 index fingers fingersend "
             "handend hand handmiddle1 middle1 wristend",
    "pinky": "handpinky1 pinky1 pinky01 fpinky01 littleproximal pinkyfinger1 finger4 finger40 pinky",
    "thumb": "handthumb2 thumb2 thumb02 thumbintermediate handthumb1 thumb1 thumb01 thumb",
    "eye": "eye",
}
MIDDLE = {"head": "head headm head1 headend neckend"}
PREFIXES = re.compile(r"(mixamorig\d*|(valvebiped)?bip0*\d|jbipc|jbip|ccbase|mavg|def|character\d*|skeleton\d*|"
                      r"armature|actor\d*)(?=.)")

# Where the parts of a head are, from the middle between the ears, in lengths of a thigh: to the left, up, forward.
FACE = {"nose": (0, -0.06, 0.26), "eye_inner": (0.04, 0.03, 0.2), "eye": (0.075, 0.03, 0.2),
        "eye_outer": (0.11, 0.03, 0.18), "ear": (0.18, 0, 0), "mouth": (0.06, -0.17, 0.21)}
EARS = 0.12  # height of the ears above the joint of the head, in lengths of a thigh


@dataclass(frozen=True)
class Motion:
    """The motion of a skeleton's joints in T frames.

    Attributes:
        names: names of the J joints, each after its parent. An End Site has its parent's name and " end".
        parents: index of the parent of each joint; -1 for a root.
        positions: (T, J, 3) float64, in the file's unit and axes.
        rotations: (T, J, 3, 3) float32: matrices from the axes of a joint to those of the file.
        fps: frames per second.
    """

    names: tuple
    parents: tuple
    positions: np.ndarray
    rotations: np.ndarray
    fps: float


# ---------------------------------------------------------------------- reading

def read_bvh(path):
    """Read a BVH file, with its channels in any order and on any joint.

    Rotations apply in the order of the channels. A position channel replaces its part of the joint's OFFSET, as in
    Blender.

    Raises:
        InputError: the file is missing, too large, not BVH, cut short, or holds values that are not finite numbers.
    """
    header, motion = _parts(path, _text(path))
    joints = _joints(path, header)
    values, fps = _values(path, motion, sum(len(joint["channels"]) for joint in joints))
    most = min(MOST_FRAMES, MOST_POSITIONS // len(joints))
    if len(values) > most:
        raise InputError(f"{path}: {len(values)} frames of {len(joints)} joints; cut the file into parts of at most "
                         f"{most} frames")
    positions, rotations = _forward_kinematics(joints, values)
    return Motion(tuple(joint["name"] for joint in joints), tuple(joint["parent"] for joint in joints), positions,
                  rotations, fps)


def check_rate(where, fps):
    """Return ``fps`` as a float.

    Args:
        where: path or flag that ``fps`` comes from, for the message.
        fps: frames per second.

    Raises:
        InputError: ``fps`` is not in `RATES`.
    """
    if not RATES[0] <= fps <= RATES[1]:
        raise InputError(f"{where}: {fps:g} frames per second, must be in [{RATES[0]}, {RATES[1]}]")
    return float(fps)


def at_rate(key_points, fps):
    """Key points at the frame rate ``fps``, by linear interpolation; None: at their own rate.

    Raises:
        InputError: ``fps`` is not in `RATES`, or makes more than `MOST_FRAMES` frames.
    """
    if fps is None:
        return key_points
    if len(key_points) * check_rate("fps", fps) / key_points.fps > MOST_FRAMES:
        raise InputError(f"fps: {fps:g} frames per second make more than {MOST_FRAMES} frames of these "
                         f"{len(key_points)}; lower it")
    return key_points.resampled(float(fps))


def _text(path):
    try:
        if plain(path).stat().st_size > LARGEST:
            raise ValueError(f"larger than {LARGEST >> 20} MiB")
        return plain(path).read_bytes().decode("utf-8-sig", "replace")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _parts(path, text):
    """The text before and after the line MOTION."""
    parts = re.split(r"^[ \t]*MOTION\b", text, maxsplit=1, flags=re.M | re.I)
    if not re.match(r"\s*HIERARCHY\b", text, re.I) or len(parts) < 2:
        raise InputError(f"{path}: not a BVH file, which begins with HIERARCHY and has a line MOTION")
    return parts


def _joints(path, header):
    """A dict with name, parent, offset and channels (kind, axis) for each joint, parents before their children."""
    joints, above = [], []
    try:
        for line in re.sub(r"([{}])", r"\n\1\n", header).strip().splitlines()[1:]:
            match line.split():
                case [kind, *name] if kind.upper() in ("ROOT", "JOINT", "END"):
                    parent = above[-1] if above else -1
                    if len(joints) == MOST_JOINTS:
                        raise ValueError
                    name = f"{joints[parent]['name']} end" if kind.upper() == "END" else " ".join(name)
                    joints.append({"name": name, "parent": parent, "offset": np.zeros(3), "channels": []})
                case ["{"]:
                    above.append(len(joints) - 1)
                case ["}"]:
                    above.pop()
                case [kind, x, y, z] if kind.upper() == "OFFSET":
                    joints[above[-1]]["offset"] = _finite(np.array([x, y, z], float))
                case [kind, count, *channels] if kind.upper() == "CHANNELS":
                    channels = [re.fullmatch(r"([xyz])(position|rotation)", name.lower()).groups() for name in channels]
                    if int(count) != len(channels) or len({*channels}) < len(channels):
                        raise ValueError
                    joints[above[-1]]["channels"] = channels
                case []:
                    pass
                case _:
                    raise ValueError
    except (ValueError, IndexError, AttributeError) as error:
        raise InputError(f"{path}: not a tree of at most {MOST_JOINTS} joints, because of its line "
                         f"'{line.strip()[:80]}'; export it again") from error
    if above or not joints:
        raise InputError(f"{path}: the tree of joints is empty or cut short; export it again")
    return joints


def _finite(values):
    if not (np.abs(values) < 1e9).all():  # also false for NaN
        raise ValueError("a value that is no finite number, or beyond 1e9")
    return values


def _values(path, motion, channels):
    """The values (frames, channels) and the frames per second."""
    head = re.match(r"\s*Frames:\s*(\d{1,9})\s+Frame\s+Time:\s*(\S{1,40})", motion, re.I)
    try:
        frames, seconds = int(head[1]), float(head[2])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: no numbers after Frames: and Frame Time:; export it again") from error
    if not (frames > 0 and 0 < seconds < np.inf and channels):
        raise InputError(f"{path}: {frames} frames of {seconds:g} s with {channels} channels; there is no motion in it")
    fps, rows = check_rate(path, 1 / seconds), motion[head.end():].strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # how NumPy reports text between the numbers
            values = _finite(np.fromstring(rows, sep=" ") if rows else np.zeros(0))
    except (ValueError, DeprecationWarning) as error:
        raise InputError(f"{path}: the motion holds text, NaN or a value beyond 1e9; export it again") from error
    first = len(rows.partition("\n")[0].split())
    if len(values) != frames * channels:
        reason = (f"its first frame has {first} values and its joints {channels} channels" if first != channels else
                  f"it has {len(values) / channels:g} of {frames} frames; is this file whole?")
        raise InputError(f"{path}: the values of the motion do not fit: {reason}")
    return values.reshape(frames, channels), fps


def _forward_kinematics(joints, values):
    """Positions (T, J, 3) and rotations (T, J, 3, 3) of the joints."""
    positions = np.zeros((len(values), len(joints), 3))
    rotations = np.zeros((len(values), len(joints), 3, 3), np.float32)
    depth, turns = [], []  # the turns, in double precision, of the joints above
    column = 0
    for j, joint in enumerate(joints):
        parent = joint["parent"]
        depth.append(depth[parent] + 1 if parent >= 0 else 0)
        del turns[depth[j]:]
        turn = turns[-1] if turns else np.broadcast_to(np.eye(3), (len(values), 3, 3))
        offset, own = np.tile(joint["offset"], (len(values), 1)), None
        for axis, kind in joint["channels"]:
            if kind == "position":
                offset[:, "xyz".index(axis)] = values[:, column]
            else:
                step = _rotation(axis, np.radians(values[:, column]))
                own = step if own is None else own @ step
            column += 1
        positions[:, j] = np.einsum("tij,tj->ti", turn, offset) + (positions[:, parent] if parent >= 0 else 0)
        turns.append(turn if own is None else turn @ own)
        rotations[:, j] = turns[-1]
    return positions, rotations


def _rotation(axis, angles):
    """Matrices (T, 3, 3) of rotations about a coordinate axis; angles in radians."""
    matrices = np.tile(np.eye(3), (len(angles), 1, 1))
    a, b = AXES[axis]
    matrices[:, a, a] = matrices[:, b, b] = np.cos(angles)
    matrices[:, b, a] = np.sin(angles)
    matrices[:, a, b] = -matrices[:, b, a]
    return matrices


# ---------------------------------------------------------------------- key points

def key_points(path, view="front", fps=None, size=(512, 512)):
    """Key points of a BVH file, seen by a distant camera (orthographic) at the height of the person.

    The camera does not move. The whole motion lies in the picture, with a margin of a tenth. "Up" is the coordinate
    axis nearest to the direction from the hips to the head, and "front" is the direction that the hips face, both on
    average over the motion. Nose, eyes, ears and mouth are estimated from the head's joint, and heels from ankles and
    toes. Landmarks whose joints are not in the file are missing; the others have confidence 1.

    Args:
        path: the file.
        view: ``"front"``, ``"side"``, or degrees as text or number. They say where the camera stands, from the front
            (0) towards the person's right hand (90, ``"side"``); there, the person faces the right of the picture.
        fps: frames per second of the result, by linear interpolation; None: those of the file.
        size: (width, height) of the picture in pixels.

    Returns:
        `KeyPoints`. The left hand of a person who faces the camera is on the right of the picture.

    Raises:
        InputError: `read_bvh` refuses the file, or it has no joints for both hips and a head; or ``view`` or ``fps`` is
            invalid.
    """
    angle = _degrees(view)
    motion = read_bvh(path)
    found = find_joints(motion.names)
    if not {"left_hip", "right_hip", "head"} <= found.keys():
        raise InputError(f"{path}: no joints for both hips and a head, such as LeftUpLeg, RightUpLeg and Head, found "
                         f"{', '.join(motion.names[:40])}; rename the joints")
    joints = {name: motion.positions[:, j] for name, j in found.items()}
    hips = (joints["left_hip"] + joints["right_hip"]) / 2
    up = _nearest_axis((joints["head"] - hips).mean(axis=0))
    facing = _unit(np.cross(joints["left_hip"] - joints["right_hip"], up))
    # A person who turns all around faces no direction in the mean; then the first frame counts.
    front = facing.mean(axis=0) if np.linalg.norm(facing.mean(axis=0)) > 0.1 else facing[0]
    if not (np.linalg.norm(up) and np.linalg.norm(front)):
        raise InputError(f"{path}: hips and head lie in one place or line; export it again")
    front = _unit(front)
    _add_face(joints, motion.rotations[:, found["head"]], up)
    for side in ("left", "right"):
        if {f"{side}_ankle", f"{side}_foot_index"} <= found.keys():
            _add_heel(joints, side, motion.rotations[:, found[f"{side}_ankle"]], up)
    right = np.cos(angle) * np.cross(up, front) + np.sin(angle) * front
    seen = {name: place @ np.stack([right, -up], axis=1) for name, place in joints.items() if name != "head"}
    points = np.stack(list(seen.values()))
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    scale = (1 - 2 * MARGIN) * (np.array(size) / np.maximum(high - low, 1e-9)).min()
    seen = {name: (place - (low + high) / 2) * scale + np.array(size) / 2 for name, place in seen.items()}
    return at_rate(KeyPoints.from_joints(seen, size, motion.fps), fps)


def find_joints(names, parts=PARTS, middle=MIDDLE):
    """Find the landmarks, and the head, among the names of a rig's joints.

    Prefixes such as ``mixamorig:`` do not count, nor do capitals, spaces, dots, dashes and underscores; the side is
    left, right, l or r, before or after the part.

    Args:
        names: names of the joints.
        parts, middle: the names of parts with a left and a right, and of those in the middle, as in `PARTS`.

    Returns:
        A dict from the name of a landmark, or of a key of ``middle``, to the index of its joint.
    """
    plain_names = {}
    for j, name in enumerate(names):
        text = re.sub(r"[^a-z0-9]", "", re.split(r"[:|]", name)[-1].lower())
        plain_names.setdefault(PREFIXES.sub("", text, count=1) if PREFIXES.match(text) else text, j)
    found, taken = {}, set()
    for side in ("left", "right", ""):
        for part, aliases in (parts if side else middle).items():
            forms = [form for alias in aliases.split() for form in _forms(side, alias)]
            joint = next((plain_names[form] for form in forms if plain_names.get(form, -1) not in {-1, *taken}), None)
            if joint is not None:
                found[f"{side}_{part}" if side else part] = joint
                taken.add(joint)
    return found


def _forms(side, part):
    """The ways to write a part of one side; the end of a part may follow the side, as in ``toe_l end``."""
    if not side:
        return [part]
    body, end = (part[:-3], "end") if part.endswith("end") and part != "end" else (part, "")
    return [form for s in (side, side[0]) for form in (s + part, part + s, body + s + end)]


def _degrees(view):
    try:
        angle = float(VIEWS.get(view, view))
    except (TypeError, ValueError):
        angle = np.nan
    if not abs(angle) <= 360:
        raise InputError(f"view must be front, side or degrees in [-360, 360], received {view}")
    return np.radians(angle)


def _unit(vectors):
    """Vectors (..., 3) of length 1; those shorter than a millionth become 0."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(lengths > 1e-6, vectors / np.maximum(lengths, 1e-6), 0)


def _nearest_axis(vector):
    """The coordinate axis, or its opposite, that is nearest to a vector; 0 for a vector shorter than a millionth."""
    axis = np.abs(vector).argmax()
    return np.sign(_unit(vector)[axis]) * np.eye(3)[axis]


def _attached(rotations, vectors):
    """Vectors (T, 3) that turn with a joint; in the joint's axes, they are the median over time of ``vectors``."""
    own = np.median(np.einsum("tji,tj->ti", rotations, vectors), axis=0)
    return rotations.astype(float) @ own


def _add_face(joints, rotations, up):
    """Add nose, eyes, ears and mouth. The head turns with its joint, and looks ahead in the median over the motion."""
    hips, left = (joints["left_hip"] + joints["right_hip"]) / 2, joints["left_hip"] - joints["right_hip"]
    spine = np.tile(up, (len(left), 1))
    if {"left_shoulder", "right_shoulder"} <= joints.keys():
        spine = (joints["left_shoulder"] + joints["right_shoulder"]) / 2 - hips
        left = joints["left_shoulder"] - joints["right_shoulder"]
    forward = _unit(_attached(rotations, _unit(np.cross(left, spine))))
    upward = _attached(rotations, _unit(spine))
    upward = _unit(upward - forward * (upward * forward).sum(axis=1, keepdims=True))
    axes = np.stack([np.cross(upward, forward), upward, forward], axis=1)
    end, thighs = ("left_knee", 1) if "left_knee" in joints else ("head", 1.6)
    thigh = np.linalg.norm(joints[end] - joints["left_hip"], axis=1).mean() / thighs
    middle = joints["head"] + EARS * thigh * upward
    for part, (x, y, z) in FACE.items():
        for side, sign in (("left", 1), ("right", -1)):
            name = {"nose": "nose", "mouth": f"mouth_{side}"}.get(part, f"{side}_{part}")
            joints.setdefault(name, middle + thigh * (np.array([sign * x, y, z]) @ axes))


def _add_heel(joints, side, rotations, up):
    """Add a heel: below and behind the ankle, as far down as the toes in the median over the motion."""
    foot = joints[f"{side}_foot_index"] - joints[f"{side}_ankle"]
    down = (foot @ up)[:, None] * up
    joints.setdefault(f"{side}_heel", joints[f"{side}_ankle"] + _attached(rotations, down - 0.3 * (foot - down)))
