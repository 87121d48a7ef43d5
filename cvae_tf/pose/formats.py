"""Key points in the file formats of other programs: OpenPose, COCO, SLEAP, DeepLabCut, BlazePose and BVH."""

import csv
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

from cvae_tf.errors import InputError
from cvae_tf.files import plain
from cvae_tf.pose import bvh
from cvae_tf.pose.keypoints import KeyPoints
from cvae_tf.pose.skeleton import COCO, LANDMARKS

LARGEST = 2**28  # size of a file in bytes, also when decompressed
FARTHEST = 1e6  # largest position in pixels
HDF5_SECONDS = 60  # limit for reading an HDF5 file
FPS = 30.0  # the frame rate if neither the file nor the caller gives one

OPENPOSE_18 = ("nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
               "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
               "right_eye", "left_eye", "right_ear", "left_ear")
BODY_25 = (*OPENPOSE_18[:8], "mid_hip", *OPENPOSE_18[8:], "left_big_toe", "left_small_toe", "left_heel",
           "right_big_toe", "right_small_toe", "right_heel")
SKELETONS = {len(names): names for names in (COCO, OPENPOSE_18, BODY_25, LANDMARKS)}

# Names of the landmarks in other programs; `bvh.find_joints` says how they are compared.
PARTS = {"eye_inner": "eyeinner innereye", "eye_outer": "eyeouter outereye", "eye": "eye", "ear": "ear",
         "mouth": "mouth mouthcorner", "shoulder": "shoulder", "elbow": "elbow", "wrist": "wrist hand",
         "pinky": "pinky", "index": "index", "thumb": "thumb", "hip": "hip", "knee": "knee", "ankle": "ankle foot",
         "heel": "heel", "foot_index": "footindex bigtoe toe toes foottip"}
MIDDLE = {"nose": "nose nosetip"}
COLUMN = re.compile(r"(.+)[._ :/-](x|y|score|confidence|likelihood|visibility|conf|c|v|p)", re.I)
FRAME_COLUMNS = ("frameidx", "frame", "framenumber", "frameindex", "frameid", "index", "")


def read_key_points(path, fps=None, view="front"):
    """Read the key points of one person from a file, or a folder, of another program.

    The format is found from the content:

    - OpenPose: a folder of ``*_keypoints.json``, one per frame, with the skeletons BODY_25 or COCO (18 points).
    - COCO: JSON with images and annotations (``poses.json`` is such a file), of which the person with the largest
      area in an image counts; or a list of results.
    - BlazePose: JSON, a list of frames of 33 times [x, y], [x, y, z] or [x, y, z, visibility]; an empty frame has no
      person.
    - NumPy: ``.npz`` with an array (T, K, 3) of x, y and confidence, or (T, K, 2), K = 17 (COCO), 18 or 25 (OpenPose)
      or 33 (BlazePose); optional arrays are ``size``, ``fps``, ``confidence`` (T, K), and K ``names``.
    - SLEAP: its analysis file, HDF5 or CSV. DeepLabCut: CSV. Other CSV files with columns such as ``left_knee.x``.
    - BVH: see `bvh.key_points`.

    If there are several people, except in COCO's annotations, the largest person of the first frame is followed: in
    each next frame, the nearest person is taken. Numbers that are missing among the frames' numbers are frames without
    a person. Points with confidence 0 are missing, and so are points at (0, 0) in a format without confidence. If the
    size of the picture is unknown, it is the smallest size that holds all points.

    Args:
        path: the file or folder.
        fps: frames per second. Key points with a frame rate of their own (BVH, COCO with ``fps`` in ``info``, NumPy
            with ``fps``) are interpolated to this rate; for others, it is the rate of the video that they come from.
            None: the file's own rate, or else 30.
        view: for BVH, as for `bvh.key_points`.

    Returns:
        `KeyPoints`. Landmarks that the file's skeleton lacks are missing.

    Raises:
        InputError: the file is missing, too large, damaged or of another kind; its skeleton is unknown; it has no
            frames or no points, or values that are infinite or beyond a million pixels; or ``fps`` or ``view`` is
            invalid.
    """
    path = Path(path)
    if fps is not None:
        bvh.check_rate("fps", fps)
    try:
        kind = _kind(path)
        if kind == "bvh":
            return bvh.key_points(path, view, fps)
        with np.errstate(all="ignore"):  # numbers out of range are found below
            table, names, size, own_fps = READERS[kind](path)
            found = _key_points(path, table, names, size, next(f for f in (own_fps, fps, FPS) if f is not None))
        return bvh.at_rate(found, None if own_fps is None else fps)
    except InputError:
        raise
    except Exception as error:  # content that is not as expected fails in many ways
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: no readable key points ({reason}); export them again") from error


def _kind(path):
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        return "openpose"
    with open(plain(path), "rb") as stream:
        begin = stream.read(512).removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, kind in ((b"PK", "npz"), (b"\x89HDF", "hdf5"), (b"{", "json"), (b"[", "json")):
        if begin.startswith(start):
            return kind
    if begin[:9].upper() == b"HIERARCHY" or path.suffix.lower() == ".bvh":
        return "bvh"
    if path.suffix.lower() == ".csv":
        return "csv"
    raise InputError(f"{path}: no key points in a known format: a folder of OpenPose, JSON of COCO or BlazePose, .npz, "
                     "HDF5 of SLEAP, CSV of SLEAP or DeepLabCut, or BVH")


def _content(path):
    _check_size(path, plain(path).stat().st_size)
    return path.read_bytes()


def _check_size(path, size):
    if size > LARGEST:
        raise InputError(f"{path}: larger than {LARGEST >> 20} MiB; cut it into parts")


def _check_range(path, positions):
    """Check positions in pixels; NaN is allowed."""
    if (np.abs(positions) > FARTHEST).any():
        raise InputError(f"{path}: positions that are infinite or beyond {FARTHEST:g} pixels; export it again")


# ---------------------------------------------------------------------- from tables to KeyPoints

def _key_points(path, table, names, size, fps):
    """`KeyPoints` of a table (T, K, 2 or 3) of the points with K ``names``; ``size`` may be None."""
    table = np.asarray(table, float)
    if table.ndim != 3 or not len(table):
        raise InputError(f"{path}: no frames with key points in it")
    if len(table) > bvh.MOST_FRAMES:
        raise InputError(f"{path}: {len(table)} frames, must be at most {bvh.MOST_FRAMES}; cut it into parts")
    if table.shape[1] != len(names) or table.shape[2] not in (2, 3):
        raise InputError(f"{path}: its array of shape {table.shape} does not fit its {len(names)} names of points")
    landmarks = _landmarks(path, names)
    points = np.full((len(table), len(LANDMARKS), 3), np.nan)
    points[:, list(landmarks), :table.shape[2]] = table[:, list(landmarks.values())]
    if table.shape[2] == 2:
        points[..., 2] = (points[..., :2] != 0).any(axis=2)
    missing = np.isnan(points).any(axis=2) | (points[..., 2] <= 0)
    points[missing] = (np.nan, np.nan, 0)
    there = points[~missing][:, :2]
    if not len(there):
        raise InputError(f"{path}: no point with a confidence above 0 in its {len(table)} frames")
    _check_range(path, there)
    if np.abs(there).max() < 3:
        raise InputError(f"{path}: positions in fractions of the picture; multiply them by its width and height")
    width, height = map(float, np.maximum(np.ceil(there.max(axis=0)), 1) if size is None else size)
    if not (1 <= width <= FARTHEST and 1 <= height <= FARTHEST):
        raise InputError(f"{path}: a picture of {width:g}x{height:g} pixels; export it again")
    return KeyPoints(points[..., :2].astype(np.float32), np.clip(points[..., 2], 0, 1).astype(np.float32),
                     (int(width), int(height)), bvh.check_rate(path, fps))


def _landmarks(path, names):
    """A dict from the index of a landmark to the index among ``names``.

    Raises:
        InputError: these are not the names of a human skeleton.
    """
    found = bvh.find_joints([str(name) for name in names], PARTS, MIDDLE)
    for side in ("left", "right"):
        if f"{side}_mouth" in found:
            found[f"mouth_{side}"] = found.pop(f"{side}_mouth")
    if len(found) < 5 or not found.keys() & {"left_hip", "right_hip", "left_shoulder", "right_shoulder"}:
        raise InputError(f"{path}: an unknown skeleton, with {len(names)} points "
                         f"({', '.join(str(name) for name in names[:40])}); expected names such as {', '.join(COCO)}")
    return {LANDMARKS.index(name): k for name, k in found.items()}


def _skeleton(path, count):
    """The names of a skeleton of ``count`` points."""
    if count not in SKELETONS:
        raise InputError(f"{path}: an unknown skeleton of {count:g} points, expected 17 (COCO), 18 or 25 (OpenPose) or "
                         "33 (BlazePose)")
    return SKELETONS[count]


def _follow(path, people, count, first=None):
    """Follow one person through frames.

    Args:
        path: for messages.
        people: dict from the number of a frame to a list of people (K, 3): x, y and confidence.
        count: K.
        first: number of the first frame; None: the lowest number.

    Returns:
        (T, K, 3), from ``first`` to the highest number; NaN in frames without the person.
    """
    if not people:
        return np.zeros((0, count, 3))
    first, last = min(people) if first is None else min(first, *people), max(people)
    if last - first >= bvh.MOST_FRAMES:
        raise InputError(f"{path}: frames from number {first} to {last}, must be at most {bvh.MOST_FRAMES}")
    table = np.full((last - first + 1, count, 3), np.nan)
    if max(map(len, people.values())) == 1:  # there is nobody else
        numbers = [number for number in sorted(people) if len(people[number])]
        table[np.array(numbers) - first] = [people[number][0] for number in numbers]
        return table
    before, seen = None, 0
    for number in sorted(people):
        there = [_known(person) for person in people[number]]
        _check_range(path, np.array(there)[..., :2])
        there = [person for person in there if not np.isnan(person).all()]
        if not there:
            continue
        chosen = there[int(np.argmax([_extent(person) for person in there]))]
        if before is not None:
            distances = [_distance(person, before) for person in there]
            chosen = there[int(np.argmin(distances))]
            # If even the nearest person is far away, this is somebody else, and the followed person is hidden. The
            # longer this lasts, the farther the followed person may have moved.
            if min(distances) > _extent(before) * (number - seen) / 2:
                continue
        table[number - first] = chosen
        before, seen = chosen, number
    return table


def _known(person):
    """A person (K, 3) with NaN in place of the missing points."""
    return np.where(np.isnan(person).any(axis=1, keepdims=True) | ~(person[:, 2:] > 0), np.nan, person)


def _extent(person):
    """Length of the diagonal of the box around a person (K, 3); 0 without points."""
    found = person[~np.isnan(person[:, 0])][:, :2]
    return float(np.linalg.norm(np.ptp(found, axis=0))) if len(found) else 0.0


def _distance(person, other):
    """Mean distance between the points that two people have in common, or between their middles."""
    distances = np.linalg.norm(person[:, :2] - other[:, :2], axis=1)
    if np.isnan(distances).all():
        return float(np.linalg.norm(np.nanmean(person[:, :2], axis=0) - np.nanmean(other[:, :2], axis=0)))
    return float(np.nanmean(distances))


def _number(name):
    """The last number in a name, without the suffix of a file; None if there is none."""
    found = re.search(r"(\d{1,15})\D*$", re.sub(r"\.[a-z]\w{1,4}$", "", str(name), flags=re.I))
    return int(found[1]) if found else None


# ---------------------------------------------------------------------- readers: (table, names, size, fps) of a path

def _read_openpose(path):
    suffix = "_keypoints.json"
    numbered = [(_number(file.name.removesuffix(suffix)), file) for file in path.iterdir()
                if file.name.endswith(suffix)]
    files = {number: file for number, file in numbered if number is not None}
    if len(files) < sum(number is not None for number, _ in numbered):
        raise InputError(f"{path}: several files *{suffix} with the same number; each video needs a folder of its own")
    if not files:
        raise InputError(f"{path}: no files *{suffix} with numbers in this folder, which OpenPose writes with "
                         "--write_json")
    people, count = {}, None
    for number, file in files.items():
        people[number] = []
        try:
            for person in json.loads(_content(file))["people"]:
                values = np.asarray(person["pose_keypoints_2d"], float)
                if not len(values):
                    continue
                names = {54: OPENPOSE_18, 75: BODY_25}.get(values.size)
                if names is None or count not in (None, len(names)):
                    raise InputError(f"{file}: an unknown skeleton of {values.size} numbers, expected 75 (BODY_25) or "
                                     "54 (COCO), the same in all files")
                count = len(names)
                people[number].append(values.reshape(count, 3))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{file}: not a frame of OpenPose ({type(error).__name__}: {error})") from error
    if count is None:
        raise InputError(f"{path}: no person in its {len(files)} frames")
    return _follow(path, people, count), SKELETONS[count], None, None


def _read_json(path):
    content = json.loads(_content(path))
    if isinstance(content, dict) and "people" in content:
        raise InputError(f"{path}: a single frame of OpenPose; give the folder of all frames")
    if isinstance(content, dict):
        return _read_coco(path, content)
    if not content:
        raise InputError(f"{path}: no frames in it")
    if isinstance(content[0], dict):
        return _read_results(path, content)
    count = max((len(frame) for frame in content if frame), default=0)
    names = _skeleton(path, count)
    frames = [np.asarray(frame, float) if frame else np.full((count, 2), np.nan) for frame in content]
    if {len(frame) for frame in frames} != {count} or not all(2 <= frame.shape[1] <= 4 for frame in frames):
        raise InputError(f"{path}: its frames are not all {count} points of [x, y, z] or [x, y, z, visibility]")
    table = np.ones((len(frames), count, 3))
    for row, frame in zip(table, frames, strict=True):
        row[:, :2] = frame[:, :2]
        row[:, 2] = frame[:, 3] if frame.shape[1] == 4 else ~np.isnan(frame[:, 0])
    return table, names, None, None


def _read_coco(path, content):
    missing = [field for field in ("images", "annotations") if not isinstance(content.get(field), list)]
    if missing:
        raise InputError(f"{path}: no list {missing[0]}, which COCO's key points have; found "
                         f"{', '.join(list(content)[:20]) or 'nothing'}")
    images = sorted(content["images"], key=_place)
    rows = {image["id"]: t for t, image in enumerate(images)}
    annotations = [found for found in content["annotations"] if "keypoints" in found]
    if not annotations:
        raise InputError(f"{path}: no annotation with keypoints in its {len(images)} images")
    field = "landmarks" if all("landmarks" in found for found in annotations) else "keypoints"
    count = len(annotations[0][field]) / 3
    categories = {category["id"]: category for category in content.get("categories", [])}
    names = categories.get(annotations[0].get("category_id"), {}).get(field) or _skeleton(path, count)
    table, areas = np.full((len(images), len(names), 3), np.nan), np.full(len(images), -1.0)
    for found in annotations:
        if found["image_id"] not in rows:
            raise InputError(f"{path}: an annotation of image {found['image_id']}, which is not among its images")
        t, points = rows[found["image_id"]], _points(path, found[field], len(names))
        area = _area(found, points)
        if area > areas[t] and (points[:, 2] > 0).any():  # COCO marks people without key points, too
            table[t], areas[t] = points, area
    sizes = {(image.get("width"), image.get("height")) for image in images}
    if len(sizes) > 1:
        raise InputError(f"{path}: its images differ in size; key points of one video have one size")
    (size,), info = sizes, content.get("info")
    return table, names, None if None in size else size, info.get("fps") if isinstance(info, dict) else None


def _place(image):
    """The place of a COCO image among the others: by its folder, and then by the number in its name."""
    folder, _, name = str(image["file_name"]).rpartition("/")
    return folder, -1 if _number(name) is None else _number(name), name


def _points(path, values, count):
    values = np.asarray(values, float)
    if values.size != 3 * count:
        raise InputError(f"{path}: key points of {values.size} numbers, expected {3 * count}: x, y and visibility of "
                         f"{count} points")
    return values.reshape(count, 3)


def _area(found, points):
    if found.get("area"):
        return float(found["area"])
    if found.get("bbox"):
        return float(found["bbox"][2]) * float(found["bbox"][3])
    return _extent(_known(points)) ** 2


def _read_results(path, content):
    names = _skeleton(path, len(content[0]["keypoints"]) / 3)
    people = {}
    for found in content:
        number = _number(found["image_id"])
        if number is None:
            raise InputError(f"{path}: image_id {found['image_id']} has no number; frames are ordered by it")
        people.setdefault(number, []).append(_points(path, found["keypoints"], len(names)))
    return _follow(path, people, len(names)), names, None, None


def _read_npz(path):
    stream = io.BytesIO(_content(path))
    with zipfile.ZipFile(stream) as archive:
        _check_size(path, sum(part.file_size for part in archive.infolist()))
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as arrays:
        arrays = {name: arrays[name] for name in arrays.files}
    tables = {name: array for name, array in arrays.items()
              if array.ndim == 3 and array.shape[2] in (2, 3) and array.dtype.kind in "fiu"}
    if len(tables) != 1:
        raise InputError(f"{path}: {len(tables)} arrays of shape (T, K, 2) or (T, K, 3), expected one; found "
                         f"{', '.join(f'{name} {array.shape}' for name, array in arrays.items()) or 'none'}")
    (table,) = tables.values()
    names = arrays["names"].tolist() if "names" in arrays else _skeleton(path, table.shape[1])
    if "confidence" in arrays:
        table = np.concatenate([table[..., :2], arrays["confidence"][..., None]], axis=2)
    return (table, names, arrays["size"].tolist() if "size" in arrays else None,
            float(arrays["fps"].item()) if "fps" in arrays else None)


# The HDF5 library hangs or crashes on some damaged files, so another process reads them.
HDF5_PROGRAM = """
import sys, h5py, numpy
with h5py.File(sys.argv[1], "r") as file:
    arrays = {name: file[name] for name in ("tracks", "node_names", "point_scores") if name in file}
    if not {"tracks", "node_names"} <= set(arrays):
        sys.exit("not an analysis of SLEAP, which has tracks and node_names; found " + (", ".join(file) or "nothing"))
    if sum(8 * array.size for array in arrays.values()) > int(sys.argv[2]):
        sys.exit("the arrays are too large")
    arrays = {name: array[()] for name, array in arrays.items()}
arrays["node_names"] = numpy.array([getattr(name, "decode", name.__str__)() for name in arrays["node_names"]])
numpy.savez(sys.stdout.buffer, **arrays)
"""


def _read_hdf5(path):
    _check_size(path, path.stat().st_size)
    command = [sys.executable, "-P", "-c", HDF5_PROGRAM, str(path.absolute()), str(LARGEST)]
    try:
        child = subprocess.run(command, capture_output=True, timeout=HDF5_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{path}: HDF5 does not read this file within {HDF5_SECONDS} s; export it as CSV") from error
    if child.returncode:
        reason = (child.stderr.decode("utf-8", "replace").strip().splitlines() or ["the library of HDF5 stopped"])[-1]
        remedy = "pip install h5py, or export it as CSV" if "h5py'" in reason else "export it as CSV"
        raise InputError(f"{path}: cannot be read as HDF5 ({reason}); {remedy}")
    with np.load(io.BytesIO(child.stdout), allow_pickle=False) as arrays:
        tracks, names = arrays["tracks"], arrays["node_names"].tolist()
        scores = [arrays[name] for name in arrays.files if name == "point_scores"]
    if tracks.ndim != 4 or tracks.shape[1:3] != (2, len(names)):
        raise InputError(f"{path}: tracks of shape {tracks.shape}, expected (tracks, 2, {len(names)} nodes, frames)")
    xy = np.asarray(tracks, float).transpose(3, 0, 2, 1)  # frames, tracks, nodes, 2
    scores = np.asarray(scores[0], float).transpose(2, 0, 1) if scores else np.ones(xy.shape[:3])
    people = _scored(np.concatenate([xy, scores[..., None]], axis=3))
    return _follow(path, dict(enumerate(people)), len(names)), names, None, None


def _scored(people):
    """People (..., 3) with confidence 1 where there is none: SLEAP does not score what a user has labelled."""
    people[..., 2] = np.where(np.isnan(people[..., 2]), 1, people[..., 2])
    return people


def _read_csv(path):
    rows = [row for row in csv.reader(io.StringIO(_content(path).decode("utf-8-sig"), newline="")) if any(row)]
    columns, frame = _columns(path, rows)
    names = list(dict.fromkeys(part for _, part, coordinate in columns if coordinate == 0))
    persons = list(dict.fromkeys(person for person, *_ in columns))
    width = max(columns.values()) + 1
    _check_size(path, 8 * max(1, len(rows)) * (width + 3 * len(persons) * len(names)))
    values = np.full((len(rows), width + 2), np.nan)
    values[:, -2] = 1  # two more columns stand for missing ones: 1 for a confidence, NaN for a position
    numbers = []
    for n, row in enumerate(rows):
        try:
            numbers.append(n if frame < 0 else int(_number(row[frame].removesuffix(".0"))))
            for column in columns.values():
                values[n, column] = float(row[column] or "nan")
        except (IndexError, TypeError, ValueError) as error:
            raise InputError(f"{path}: row {n + 1} below the header has too few cells, no number of a frame, or text "
                             "in place of a number; is this file whole?") from error
    indices = np.array([[[columns.get((person, name, k), (-1, -1, -2)[k]) for k in range(3)] for name in names]
                        for person in persons])
    people = {}
    for number, found in zip(numbers, _scored(values[:, indices]), strict=True):
        people.setdefault(number, []).extend(found)
    # Frames without a person have no row in some files, so that the first row need not be that of the first frame.
    return _follow(path, people, len(names), first=0), names, None, None


def _columns(path, rows):
    """Take the header off the rows of a CSV file.

    Returns:
        A dict from (individual, part, coordinate) to the number of a column, and the column of the frames' numbers; -1
        if there is none.
    """
    heads = {}
    while rows and rows[0][0].lower() in ("scorer", "individuals", "bodyparts", "coords"):  # DeepLabCut
        row = rows.pop(0)
        heads[row[0].lower()] = row
    head = heads.get("coords") or (rows.pop(0) if rows else [])
    if heads:
        parts = heads.get("bodyparts", [])
        who = heads.get("individuals", [""] * len(head))
        columns = {(person, part, _coordinate(name)): k
                   for k, (person, part, name) in enumerate(zip(who, parts, head, strict=False))}
        columns = {key: k for key, k in columns.items() if key[2] is not None}
        frame = min(columns.values(), default=0) - 1
    else:
        found = {k: COLUMN.fullmatch(name.strip()) for k, name in enumerate(head)}
        columns = {("", match[1], _coordinate(match[2])): k for k, match in found.items() if match}
        place = {re.sub(r"[^a-z]", "", name.lower()): k for k, name in reversed([*enumerate(head)])}
        frame = next((place[name] for name in FRAME_COLUMNS if name in place), -1)
    if not any(coordinate == 0 for *_, coordinate in columns):
        raise InputError(f"{path}: no columns such as left_knee.x, and no header of DeepLabCut with bodyparts and "
                         f"coords; found {', '.join(head[:20]) or 'nothing'}")
    return columns, frame


def _coordinate(name):
    """0 for x, 1 for y, 2 for a confidence by any name, None for others."""
    name = name.strip().lower()
    return {"x": 0, "y": 1, "z": None, "coords": None, "": None}.get(name, 2)


READERS = {"openpose": _read_openpose, "json": _read_json, "npz": _read_npz, "hdf5": _read_hdf5, "csv": _read_csv}
