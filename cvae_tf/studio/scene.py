"""The studio: synthetic footage of a person in a lit grey room, with the pose of each frame drawn beside it.

`person` gives the motion, and a camera projects the joints. Pillow draws the body in the room, and the coloured
skeleton on white, in the style of OpenPose. The footage is a pure function of its arguments.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cvae_tf.config import check_ranges
from cvae_tf.errors import InputError
from cvae_tf.files import atomic
from cvae_tf.pose import skeleton
from cvae_tf.pose.keypoints import KeyPoints
from cvae_tf.studio import person

LENGTH = 630  # frames in a sequence, as in the lab
FPS = 20  # frames per second of the films, as in the lab

CAMERA_DISTANCE, CAMERA_HEIGHT = 3.6, 0.62  # body heights
FACE_HIDDEN = -0.5  # the face is hidden up to this cosine of the yaw
PERSON = 0.74  # height of the person at z = 0 as a share of the frame's height

SKIN, HAIR = (196, 150, 124), (44, 34, 30)
CLOTHES = (("shirt", (72, 92, 120)), ("trousers", (30, 30, 36)), ("shoes", (22, 20, 20)))
LAMPS = ((225, 60, 50), (60, 190, 80), (60, 90, 230))
BODY = (  # ends of each bone, its thickness in body heights, and the clothes on it
    ("left_hip", "left_knee", 0.085, "trousers"), ("left_knee", "left_ankle", 0.065, "trousers"),
    ("left_ankle", "left_foot_index", 0.05, "shoes"),
    ("right_hip", "right_knee", 0.085, "trousers"), ("right_knee", "right_ankle", 0.065, "trousers"),
    ("right_ankle", "right_foot_index", 0.05, "shoes"),
    ("left_shoulder", "left_elbow", 0.055, "shirt"), ("left_elbow", "left_wrist", 0.05, "shirt"),
    ("right_shoulder", "right_elbow", 0.055, "shirt"), ("right_elbow", "right_wrist", 0.05, "shirt"),
    ("pelvis", "neck", 0.15, "shirt"), ("left_shoulder", "right_shoulder", 0.065, "shirt"),
    ("left_hip", "right_hip", 0.10, "trousers"),
)


def _project(points, height, width):
    """Project points (..., 3) in body heights: (pixels (..., 2), scale (...) there in pixels per body height)."""
    scale = PERSON * height * CAMERA_DISTANCE / (CAMERA_DISTANCE - points[..., 2])
    horizon = 0.87 * height - PERSON * height * CAMERA_HEIGHT  # feet at z = 0 stand at 0.87 of the height
    x = 0.5 * width + scale * points[..., 0]
    y = horizon + scale * (CAMERA_HEIGHT - points[..., 1])
    return np.stack([x, y], -1), scale


def _room(height, width, light, tint):
    """The empty room, (height, width, 3) float from 0 to 255: a wall with ceiling lights, and a floor."""
    y, x = np.mgrid[0:height, 0:width] / float(height)
    aspect = width / height
    grey = 0.60 + 0.16 * np.exp(-(((x - light * aspect) / 0.7) ** 2) - ((y - 0.55) / 0.45) ** 2)
    for spot in np.linspace(0.12, 0.88, 4):
        grey += 0.22 * np.exp(-(((x - spot * aspect) / 0.16) ** 2) - (y / 0.13) ** 2)
    grey -= 0.20 * np.exp(-((y - 0.02) / 0.10) ** 2) * (0.5 + 0.5 * np.cos(x * 9.0))
    grey += 0.07 / (1 + np.exp(-(y - 0.80) / 0.015))
    grey -= 0.12 * ((x / aspect - 0.5) / 0.5) ** 4
    return 255 * np.clip(grey, 0, 1)[..., None] * np.asarray(tint)


def _lamp_colours(random, hidden):
    """Index into `LAMPS` for each frame, drawn anew whenever the lamp appears; -1 where the lamp is hidden."""
    episode = np.cumsum(hidden[:-1] & ~hidden[1:], dtype=int)
    colours = random.integers(len(LAMPS), size=len(hidden))[np.concatenate([[0], episode])]
    return np.where(hidden, -1, colours)


def _draw_person(draw, t, points, scales, depths, colours, facing, brightness):
    """Draw frame ``t``: the shadow, then the bones from the farthest to the nearest, then the head."""
    def shade(colour, depth):
        return tuple(int(np.clip(c * brightness * (1 + 1.6 * depth), 0, 255)) for c in colour)

    (x, y), scale = points["floor"][t], scales["floor"][t]
    draw.ellipse([x - 0.22 * scale, y - 0.03 * scale, x + 0.22 * scale, y + 0.05 * scale], fill=(40, 40, 45, 70))
    for a, b, thickness, cloth in sorted(BODY, key=lambda bone: depths[bone[0]][t] + depths[bone[1]][t]):
        depth = 0.5 * (depths[a][t] + depths[b][t])
        skeleton.line(draw, points[a][t], points[b][t], thickness * scales[a][t], shade(colours[cloth], depth))
    for side in ("left", "right"):
        (x, y), r = points[f"{side}_wrist"][t], 0.028 * scales[f"{side}_wrist"][t]
        draw.ellipse([x - r, y - r, x + r, y + r], fill=shade(SKIN, depths[f"{side}_wrist"][t]))
    (x, y), r = points["head"][t], 0.065 * scales["head"][t]
    draw.ellipse([x - 0.85 * r, y - r, x + 0.85 * r, y + 1.1 * r], fill=shade(HAIR, 0))
    if facing[t, 2] > FACE_HIDDEN:
        x += 0.45 * r * facing[t, 0]
        draw.ellipse([x - 0.68 * r, y - 0.5 * r, x + 0.68 * r, y + 1.1 * r], fill=shade(SKIN, 0))


def sequence(number, height, width, *, seed=0, variety=False, lamp=False, length=LENGTH):
    """One sequence of the studio.

    Args:
        number: number of the sequence; each has a script of its own.
        height, width: size of a frame in pixels.
        seed: seed of the whole studio.
        variety: give each sequence its own clothes and lighting, instead of the same for all.
        lamp: put a lamp into the right hand. It colours the shirt while the hand is ahead of the shoulder. Its colour,
            one of three, is drawn anew each time the hand comes forward, about 20 times in 630 frames. The poses do
            not show the colour.
        length: number of frames.

    Returns:
        ``(frames, poses)``, each (length, height, width, 3) uint8.
    """
    random = np.random.default_rng([seed, number])
    script = person.write_script(random, length)
    colours, light, brightness, tint = dict(CLOTHES), 0.5, 1.0, (1.0, 0.985, 0.965)
    if variety:
        colours = {name: tuple(int(c) for c in random.integers(15, 200, 3)) for name, _ in CLOTHES}
        light, brightness = random.uniform(0.25, 0.75), random.uniform(0.85, 1.1)
        tint = 1 - random.uniform(0, 0.1, 3)
    joints = person.skeleton(script)
    facing = joints.pop("forward")
    joints["floor"] = joints["pelvis"] * (1, 0, 1)
    over = max(1, min(4, 256 // height))  # drawn larger, then averaged, which smooths the edges
    projected = {name: _project(points, over * height, over * width) for name, points in joints.items()}
    points = {name: pixels for name, (pixels, _) in projected.items()}
    scales = {name: scale for name, (_, scale) in projected.items()}
    depths = {name: position[:, 2] - joints["pelvis"][:, 2] for name, position in joints.items()}
    lamps = np.full(length, -1)
    if lamp:
        outside = np.abs(points["floor"][:, 0] / (over * width) - 0.5) > 0.5
        ahead = np.sum((joints["right_wrist"] - joints["right_shoulder"]) * facing, axis=1)
        lamps = _lamp_colours(np.random.default_rng([seed, number, 1]), outside | (ahead < 0))
    room = Image.fromarray(np.uint8(np.clip(brightness * _room(over * height, over * width, light, tint), 0, 255)))
    frames = np.empty((length, height, width, 3), np.uint8)
    for t in range(length):
        frame = room.copy()
        lit = {"shirt": LAMPS[lamps[t]]} if lamps[t] >= 0 else {}
        _draw_person(ImageDraw.Draw(frame, "RGBA"), t, points, scales, depths, colours | lit, facing, brightness)
        frames[t] = np.asarray(frame.reduce(over))
    joints = {name: pixels / over for name, pixels in points.items()}
    return frames, skeleton.draw(joints, height, width, skeleton.STUDIO)


def key_points(number, height, width, *, seed=0, length=LENGTH):
    """The `KeyPoints` of the person in a sequence, in pixels of its frames; the arguments are those of `sequence`.

    The ears stand at the middle of the head; of face and hands, the other landmarks are missing.
    """
    joints = person.skeleton(person.write_script(np.random.default_rng([seed, number]), length))
    joints |= {"left_ear": joints["head"], "right_ear": joints["head"]}
    return KeyPoints.from_joints({name: _project(positions, height, width)[0] for name, positions in joints.items()
                                  if name != "forward"}, (width, height), FPS)


def sequences(numbers, height, width, **options):
    """The list of `sequence` results for ``numbers``; ``options`` are those of `sequence`."""
    return [sequence(number, height, width, **options) for number in numbers]


def write_tree(out, train=4, *, length=LENGTH, frame_size=(32, 64), seed=0, variety=False, lamp=False):
    """Write training sequences, one validation sequence and one test sequence to disk, in the lab's layout.

    Sequence k begins at number 100,000 k, so that a gap in the numbers marks each cut. The folder appears only
    when complete. Of the test sequence, only the first frame and all poses are written, as in the lab.

    Args:
        out: folder to make.
        train: number of training sequences, 1 to 1000.
        length: frames in a sequence, 2 to 99,999.
        frame_size: (height, width) in pixels, 8 to 1024 each.
        seed: seed of the whole studio.
        variety, lamp: as for `sequence`.

    Raises:
        InputError: a value is out of range, ``out`` is neither missing nor an empty folder, or it cannot be written.
    """
    height, width = frame_size
    check_ranges(dict(train=(1, 1000), length=(2, 99_999), frame_H=(8, 1024), frame_W=(8, 1024), seed=(0, 2**31 - 1)),
                 train=train, length=length, frame_H=height, frame_W=width, seed=seed)
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; choose a new folder or remove it")
    with atomic(out) as unfinished:
        for number in range(train + 2):
            frames, poses = sequence(number, height, width, seed=seed, variety=variety, lamp=lamp, length=length)
            split = "val" if number == 0 else "train" if number <= train else "test"
            names = [f"frame{100_000 * number + t:08d}.png" for t in range(length)]
            below = "0" if split == "test" else ""
            for kind, images in (("img", frames), ("label", poses)):
                folder = unfinished / split / f"{split}_{kind}" / below
                folder.mkdir(parents=True, exist_ok=True)
                count = 1 if (split, kind) == ("test", "img") else length
                for name, image in zip(names[:count], images, strict=False):
                    Image.fromarray(image).save(folder / name)
