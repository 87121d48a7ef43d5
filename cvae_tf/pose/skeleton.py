"""The skeleton: the names of its joints, and the one function that draws it.

Joints are the 33 landmarks of BlazePose (Bazarevsky et al., 2020), which contain the 17 key points of COCO, and three
that are derived from them: neck, pelvis and head. "Left" is the left of the person.
"""

import colorsys
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

LANDMARKS = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
    "left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb",
    "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel",
    "right_heel", "left_foot_index", "right_foot_index",
)
COCO = ("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle")


def other_side(joint):
    """The name of the joint on the other side of the body; a joint in the middle is its own counterpart."""
    sides = {"left": "right", "right": "left"}
    return "_".join(sides.get(word, word) for word in joint.split("_"))


MIRRORED = tuple(LANDMARKS.index(other_side(name)) for name in LANDMARKS)


class Limb(NamedTuple):
    """A line of a drawn skeleton, between two joints; ``colour`` is (red, green, blue) from 0 to 255."""

    start: str
    end: str
    colour: tuple


class Style(NamedTuple):
    """A manner of drawing.

    Attributes:
        limbs: `Limb` tuples, in the order of drawing.
        width: width of the lines as a fraction of the picture's height.
    """

    limbs: tuple
    width: float


def _hue(degrees):
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(degrees / 360, 1, 1))


def _both_sides(*limbs):
    """Limbs of the right side, then of the left one; ``limbs`` are (left start, left end, right hue, left hue)."""
    return (*(Limb(other_side(a), other_side(b), _hue(right)) for a, b, right, _ in limbs),
            *(Limb(a, b, _hue(left)) for a, b, _, left in limbs))


# The drawings of the lab. Hues and width are measured on its poses of 32x64 pixels, where a shank has 0.17 pixels of
# ink in a row.
LAB = Style((
    Limb("neck", "pelvis", _hue(240)),
    *_both_sides(("nose", "left_eye", 290, 290), ("left_eye", "left_ear", 290, 290),
                 ("neck", "left_shoulder", 226, 192), ("left_shoulder", "left_elbow", 226, 192),
                 ("left_elbow", "left_wrist", 212, 184), ("left_wrist", "left_index", 212, 184),
                 ("pelvis", "left_hip", 161, 0), ("left_hip", "left_knee", 161, 0),
                 ("left_knee", "left_ankle", 141, 20), ("left_ankle", "left_heel", 113, 48),
                 ("left_heel", "left_foot_index", 113, 48), ("left_ankle", "left_foot_index", 113, 48)),
), 0.0055)

# The drawings of the studio.
STUDIO = Style(tuple(Limb(*limb) for limb in (
    ("head", "nose", (190, 0, 255)), ("neck", "head", (130, 0, 220)), ("neck", "pelvis", (60, 40, 255)),
    ("neck", "right_shoulder", (0, 90, 255)), ("right_shoulder", "right_elbow", (0, 130, 255)),
    ("right_elbow", "right_wrist", (0, 170, 255)),
    ("neck", "left_shoulder", (0, 190, 200)), ("left_shoulder", "left_elbow", (0, 200, 170)),
    ("left_elbow", "left_wrist", (0, 210, 140)),
    ("pelvis", "right_hip", (60, 190, 60)), ("right_hip", "right_knee", (70, 200, 0)),
    ("right_knee", "right_ankle", (120, 210, 0)), ("right_ankle", "right_foot_index", (170, 200, 0)),
    ("pelvis", "left_hip", (255, 70, 40)), ("left_hip", "left_knee", (255, 50, 50)),
    ("left_knee", "left_ankle", (255, 110, 0)), ("left_ankle", "left_foot_index", (255, 170, 0)),
)), 0.03 * 0.74)

# The parts of the body that have a hue of their own in every style, by the joint at which a limb ends.
PART_OF_END = {"hip": "thigh", "knee": "thigh", "ankle": "shank", "heel": "foot", "foot_index": "foot",
               "shoulder": "upper arm", "elbow": "upper arm", "wrist": "forearm", "index": "forearm"}
PARTS = (*(f"{side} {part}" for side in ("left", "right") for part in dict.fromkeys(PART_OF_END.values())),
         "spine", "head")

FINEST = 2.8  # smallest width of a line while it is drawn, in pixels of the enlarged picture


def draw(joints, height, width, style=LAB):
    """Draw skeletons on a white background, with antialiasing.

    Each skeleton is drawn enlarged and then reduced by averaging, so that a line thinner than a pixel becomes pale, and
    two limbs that are three pixels apart stay apart.

    Args:
        joints: dict from the name of a joint to its positions (T, 2): x and y in pixels. Limbs with an end that is
            missing or NaN are left out, and so is all that lies outside the picture.
        height, width: size of the drawings in pixels.
        style: `Style`.

    Returns:
        (T, height, width, 3) uint8.
    """
    over = int(np.clip(np.ceil(FINEST / (style.width * height)), 4, max(1, 1024 // height)))
    thickness = style.width * over * height
    ends = [(over * joints[a], over * joints[b], colour) for a, b, colour in style.limbs if a in joints and b in joints]
    count = len(next(iter(joints.values())))
    drawings = np.full((count, height, width, 3), 255, np.uint8)
    for t in range(count):
        limbs = [(a[t], b[t], colour) for a, b, colour in ends if _visible(a[t], b[t], over * height, over * width)]
        if limbs:
            paper = Image.new("RGB", (over * width, over * height), "white")
            canvas = ImageDraw.Draw(paper)
            for start, end, colour in limbs:
                line(canvas, start, end, thickness, colour)
            drawings[t] = np.asarray(paper.reduce(over))
    return drawings


def _visible(start, end, height, width):
    """Whether a line has both ends, and may touch the picture. Pillow fails on coordinates of millions of pixels."""
    low, high = np.minimum(start, end), np.maximum(start, end)
    return (high > -height).all() and (low < (2 * width, 2 * height)).all() and (np.abs([low, high]) < 1e5).all()


def line(canvas, start, end, width, colour):
    """Draw a line with round ends on a Pillow canvas; ``start`` and ``end`` are (x, y) in pixels."""
    canvas.line([*start, *end], fill=colour, width=max(1, round(width)))
    r = width / 2
    for x, y in (start, end):
        canvas.ellipse([x - r, y - r, x + r, y + r], fill=colour)


def hues(style):
    """Hues in degrees of left limbs, of the same limbs on the right, and of the others, as three lists."""
    colours = {(limb.start, limb.end): 360 * colorsys.rgb_to_hsv(*limb.colour)[0] for limb in style.limbs}
    left = [limb for limb in colours if limb[1].startswith("left")]
    right = [tuple(other_side(joint) for joint in limb) for limb in left]
    others = [limb for limb in colours if limb not in (*left, *right)]
    return tuple([colours[limb] for limb in limbs] for limbs in (left, right, others))


def part_hues(style):
    """The hues in degrees of each of `PARTS`, as three tuples: of the left parts, the right ones, and the others."""
    found = {part: [] for part in PARTS}
    for limb in style.limbs:
        side, _, joint = limb.end.partition("_")
        part = f"{side} {PART_OF_END[joint]}" if joint in PART_OF_END else "spine" if limb.end == "pelvis" else "head"
        found[part].append(360 * colorsys.rgb_to_hsv(*limb.colour)[0])
    hues = [tuple(sorted(set(hues))) for hues in found.values()]
    sides = len(PARTS) // 2 - 1
    return tuple(hues[:sides]), tuple(hues[sides:2 * sides]), tuple(hues[2 * sides:])
