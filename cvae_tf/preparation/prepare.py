"""Turn videos of a person into a data set in the lab's layout: the work of ``cvae-tf prepare``."""

import contextlib
import dataclasses
import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import cvae_tf
from cvae_tf.config import Config, check_ranges
from cvae_tf.data import film
from cvae_tf.data.images import uncut
from cvae_tf.data.record import POSES, RECORD, read_record
from cvae_tf.data.video import FOLDER_FPS, count_frames, default_rate, probe, shown_at
from cvae_tf.errors import InputError, program, say
from cvae_tf.files import atomic, check_paths, check_replaceable, clean_up, plain, reserved
from cvae_tf.pose import formats, retarget
from cvae_tf.pose.keypoints import KeyPoints, joined, write_poses
from cvae_tf.pose.skeleton import draw
from cvae_tf.pose.smoothing import MAX_GAP
from cvae_tf.preparation import crop as crops
from cvae_tf.preparation.track import clean, counted, follow

FILES = (RECORD, POSES, "sheet.png", "train", "val", ".cvae_tf_cache")
VALIDATION = 0.15  # share of the frames that become the validation split
FEW = 300  # with fewer training frames, good films cannot be expected
SAMPLED = 100  # frames from which the movement of the background is measured
MOVING = 8  # mean deviation of the background in levels of 255, above which it counts as moving
CLIP = Config.train_vi_len  # frames in a training clip by default
NUMBERS = 1_000_000  # first number of the frames of each video; a gap in the numbers is a cut
WRITTEN = re.compile(r"frame\d{9}\.png|\..*|Thumbs\.db|desktop\.ini")  # files in the folders of images


@dataclass
class Source:
    """A video that becomes part of the data set.

    Attributes:
        video: `Video`.
        split: ``"train"``, ``"val"``, or ``"both"`` if its last part becomes validation.
        key_points: `KeyPoints` of all frames in pixels of the picture, smoothed.
        people: largest number of people that were found in a frame.
        kept: (T,) bool, the frames that become part of the data set.
        box: (x, y, width, height), the part of the picture, in its pixels.
    """

    video: "Video"  # noqa: F821
    split: str
    key_points: KeyPoints = None
    people: int = 1
    kept: np.ndarray = None
    box: tuple = None


def prepare(videos: Iterable[str | Path], out: str | Path, val: Iterable[str | Path] = (), *,
            poses: str | Path | None = None, crop: str = "person", height: int = 0, fps: float = 0.0,
            max_gap: int = MAX_GAP, overwrite: bool = False) -> dict:
    """Turn videos of one person into a data set. Print each choice, and what may spoil the films.

    Args:
        videos: paths of videos, or folders of images.
        out: folder of the data set to write.
        val: videos for validation; if empty, the last 15 percent of each of ``videos``.
        poses: key points of another program for the only video, as for `formats.read_key_points`; None: they are
            found in the video.
        crop: ``"person"``: a box that holds the person, the same in all frames of a video; ``"whole"``; or
            ``"X,Y,W,H"`` in pixels.
        height: height of the frames in pixels, a multiple of 8 from 8 to 512. The width follows from the crop. 0: the
            height with which the frames have about as many pixels as the lab's.
        fps: frames per second; 0: the slowest video's rate, divided by a whole number so that it is at most 30.
        max_gap: longest gap in the key points that is filled by interpolation, in frames.
        overwrite: replace a data set in ``out`` that was prepared from other videos or with other settings.

    Returns:
        The content of ``prepare.json``, a dict.

    Raises:
        InputError: a value is out of range, a video cannot be read, no person is found, the footage is too short, or
            ``out`` cannot be written.
    """
    out, videos, val = Path(out), [Path(video) for video in videos], [Path(video) for video in val]
    check_ranges({"height": (0, 512), "max_gap": (0, 1000)}, height=height, max_gap=max_gap)
    if fps:
        check_ranges({"fps": (1, 240)}, fps=fps)
    if height % crops.STEP:
        raise InputError(f"--height must be a multiple of {crops.STEP}, received {height}")
    if poses and (len(videos) > 1 or val):
        raise InputError("--poses needs exactly one VIDEO, and no --val")
    box = crops.read_crop(crop)
    check_paths({"VIDEO": [*videos, *val], "--poses": poses}, {"--out": out})
    check_replaceable(out, FILES, "prepared data set", "--out")
    training = "train" if val else "both"
    sources = [Source(probe(path, fps or FOLDER_FPS), "val" if path in val else training) for path in [*videos, *val]]
    fps = _rate(fps, [source.video for source in sources])
    wanted = {"sources": [{"sha256": _hash(source.video.path), "split": source.split} for source in sources],
              "poses": poses and _hash(Path(poses)),
              "settings": {"crop": crop, "height": height, "fps": fps, "max_gap": max_gap}}
    hashes = [source["sha256"] for source in wanted["sources"]]
    if len(set(hashes)) < len(hashes):
        twice = next(source.video.path for k, source in enumerate(sources) if hashes[k] in hashes[:k])
        raise InputError(f"{twice}: is given twice, perhaps under two names; a video is either for training or for "
                         "validation")
    with reserved(out, f"{out}: is being prepared by another process; wait for it, or choose another --out"):
        clean_up(out.absolute().parent, out.name)
        record = _earlier(out, overwrite)
        if record and record["request"] == wanted:
            say(f"{out}: is already prepared from these videos with these settings; nothing to do")
            return record
        if record and not overwrite:
            raise InputError(f"{out}: was prepared from other videos or with other settings; choose another --out, or "
                             "replace it with --overwrite")
        return _make(out, sources, poses, box, height, fps, max_gap, wanted)


def _earlier(out, overwrite):
    """The record of the data set in ``out``, or None; a damaged one counts as none if it may be replaced."""
    for path in (below for split in ("train", "val") for below in (out / split).rglob("*") if below.is_file()):
        if not WRITTEN.fullmatch(path.name):
            raise InputError(f"{path}: is not from an earlier preparation, and would be lost; move it elsewhere, or "
                             "choose another --out")
    try:
        return read_record(out)
    except InputError:
        if not overwrite:
            raise
        return None


def _make(out, sources, poses, box, height, fps, max_gap, wanted):
    """Find poses, choose boxes, and write the data set; returns the content of ``prepare.json``."""
    space = out.absolute().with_name(f".{out.name}.prepare")  # keeps the search, if it is interrupted
    for source, about in zip(sources, wanted["sources"], strict=True):
        key = hashlib.sha256(f"{about['sha256']} {fps} {cvae_tf.__version__}".encode()).hexdigest()[:16]
        _find_poses(source, poses, fps, max_gap, space / key)
    size = _choose_boxes(sources, box, height)
    with atomic(out) as unfinished:
        unfinished.mkdir()
        record = _write(unfinished, sources, size, fps, wanted)
    shutil.rmtree(space, ignore_errors=True)
    _say_what_next(out, record)
    return record


def _find_poses(source, poses, fps, max_gap, progress):
    """Set the key points of a `Source`, and the frames to keep; print how many show a person."""
    if poses:
        source.key_points = _given_poses(poses, source.video, fps)
    else:
        source.key_points, source.people = follow(source.video, fps, progress)
    count, found = len(source.key_points), int(source.key_points.present.sum())
    path = source.video.path
    if not found:
        raise InputError(f"{path}: no person was found in {count} frames; give a video that shows the whole body of "
                         "one person, or key points with --poses")
    source.key_points = clean(source.key_points, max_gap)
    source.kept = kept_frames(source.key_points)
    lost = count - int(source.kept.sum())
    say(f"{path}: {count} frame{'s' * (count > 1)} at {fps:.4g} per second, a person was found in {found} of them"
        + (f"; {lost} without one are left out, which makes cuts" if lost else ""))
    if source.people > 1:
        say(f"{path}: up to {source.people} people in the picture; the largest is followed. The others count as "
            "background, although no pose describes their movements")


def _choose_boxes(sources, box, height):
    """Set the box of each `Source`, print it, and return the (width, height) of the frames."""
    if box == "person":
        boxes, size = crops.person_boxes([source.key_points for source in sources], height)
    else:
        if box != "whole":
            for source in sources:
                crops.check_box(box, source.video)
        found = [crops.fixed_box(None if box == "whole" else box, source.key_points.size, height) for source in sources]
        boxes, size = [box for box, _ in found], found[0][1]
        if {size for _, size in found} != {size}:
            raise InputError("--crop: the videos have pictures of different shapes; give --crop person")
    for source, source.box in zip(sources, boxes, strict=True):
        x, y, w, h = source.box
        say(f"{source.video.path}: a box of {w}x{h} pixels at {x},{y} in the picture of "
            f"{source.video.width}x{source.video.height} becomes frames of {size[1]}x{size[0]} (height x width)")
        cut = crops.cut_share(source.key_points, source.box)
        if cut > 0.1:
            say(f"{source.video.path}: the box cuts the person in {100 * cut:.0f} percent of the frames; another "
                "--height or a larger --crop may hold more, or prepare videos of other shapes apart")
        if h < size[1]:
            say(f"{source.video.path}: the box is smaller than the frames, which show no more detail than with "
                f"--height {max(crops.STEP, h // crops.STEP * crops.STEP)}")
    return size


def _rate(fps, videos):
    """The rate at which frames are taken. ``fps`` is the requested rate; a line is printed if it cannot be used."""
    slowest = min(video.fps for video in videos)
    if fps > slowest * 1.01:
        say(f"The slowest video has {slowest:.4g} frames per second, so --fps {fps:g} would only repeat frames; the "
            f"data set gets {slowest:.4g} frames per second")
        return float(slowest)
    return float(fps or default_rate(videos))


def _hash(path):
    """SHA-256 of a file, or of the names and contents of the files in a folder."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")) if path.is_dir() else [path]
    for file in files:
        try:
            with open(plain(file), "rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
        digest.update(f"{file.name if path.is_dir() else ''} {content}\n".encode())
    return digest.hexdigest()


def _given_poses(path, video, fps):
    """Key points of another program for each frame that is taken from ``video``."""
    if Path(path).suffix.lower() == ".bvh":
        raise InputError(f"{path}: motion capture does not show where a person is in a picture; use it to drive a "
                         "model: cvae-tf predict --poses")
    found = formats.read_key_points(path)
    wanted, native = video.expected(fps), count_frames(video)
    if min(abs(len(found) - native), abs(len(found) - wanted)) > 2:
        raise InputError(f"{path}: has key points of {len(found)} frames; expected {native}, those of {video.path}, or "
                         f"{wanted} at {fps:.4g} frames per second")
    if abs(len(found) - native) <= abs(len(found) - wanted):
        found = found[shown_at(len(found), video.fps, fps)]
    size = np.array([video.width, video.height])
    inside = ((found.points >= 0) & (found.points < size)).all(axis=-1)
    if not inside.any() or (np.nanmax(found.points, axis=(0, 1)) > 2 * size).any():
        raise InputError(f"{path}: its key points lie outside the picture of {video.path}, {video.width}x"
                         f"{video.height} pixels; are they of another video?")
    return dataclasses.replace(found, size=(video.width, video.height), fps=fps)


def kept_frames(key_points):
    """The frames that become part of the data set.

    Frames without a person are left out. But where the person leaves or enters
    the picture, up to a second of the empty picture is kept, so that a model can learn it.

    Args:
        key_points: `KeyPoints` of T frames; short gaps are filled.

    Returns:
        (T,) bool.
    """
    present, count, second = key_points.present, len(key_points), max(1, round(key_points.fps))
    kept = present.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[True], present, [True]]).astype(int)))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if start > 0 and _at_the_border(key_points, start - 1):
            kept[start:min(end, start + second)] = True
        if end < count and _at_the_border(key_points, end):
            kept[max(start, end - second):end] = True
    return kept


def _at_the_border(key_points, t):
    """Whether the person in frame ``t`` touches the left or right border of the picture, or nearly does."""
    x, width = key_points.points[t, :, 0], key_points.size[0]
    return bool(np.nanmin(x) < 0.05 * width or np.nanmax(x) > 0.95 * width)


def _write(folder, sources, size, fps, wanted):
    """Write the data set into ``folder``; returns the content of ``prepare.json``."""
    names, parts = {"train": [], "val": []}, {"train": [], "val": []}
    samples, moved = [], []
    for number, source in enumerate(sources):
        key_points = source.key_points.cropped(source.box, size)
        key_points = dataclasses.replace(key_points, points=np.round(key_points.points, 2))  # as in poses.json
        places = _split(np.flatnonzero(source.kept), source.split, fps)
        sampled, count = _write_images(folder, source, key_points, places, number)
        moved.append(background_movement(*sampled))
        chosen = np.linspace(0, len(sampled[0]) - 1, max(1, film.SHEET // len(sources))).astype(int)
        samples.append([part[np.unique(chosen)] for part in sampled])
        for split, indices in places.items():
            indices = indices[indices < count]  # given key points may be longer than the video, by a frame or two
            names[split] += [f"{split}/{split}_img/frame{NUMBERS * number + t:09d}.png" for t in indices]
            parts[split].append(key_points[indices])
    for split, part in names.items():
        if len(part) < 2:
            raise InputError(f"{sources[0].video.path}: is too short: {len(part)} frames remain for {split}, at least "
                             "2 are needed; give a longer video")
    write_poses(folder / POSES, joined(parts["train"] + parts["val"]), names["train"] + names["val"])
    film.write_png(folder / "sheet.png", _sheet(samples, size))
    record = {
        "program": f"cvae_tf {cvae_tf.__version__}", "frame_size": [size[1], size[0]], "fps": fps,
        "frames": {split: len(part) for split, part in names.items()},
        "longest": max(length for _, length in uncut([Path(name) for name in names["train"]])),
        "sources": [{"path": str(source.video.path), "split": source.split, "size": list(source.key_points.size),
                     "fps": source.video.fps, "duration": source.video.duration, "box": list(source.box),
                     "frames": len(source.key_points), "kept": int(source.kept.sum()), "people": source.people,
                     "background_movement": round(movement, 2)}
                    for source, movement in zip(sources, moved, strict=True)],
        "person": _statistics(joined(parts["train"])), "request": wanted,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def _write_images(folder, source, key_points, places, number):
    """Write frames and drawn poses of the video ``number``.

    Args:
        folder: the data set.
        source: `Source`.
        key_points: `KeyPoints` of all its frames, in pixels of the frames to write.
        places: split -> indices of the frames that belong to it.
        number: number of the video.

    Returns:
        ``((frames, key_points), count)``: at most `SAMPLED` frames, evenly spaced over the whole video, with their key
        points; and the number of frames in the video.
    """
    width, height = key_points.size
    split_of = {int(t): split for split, indices in places.items() for t in indices}
    sampled = np.unique(np.linspace(0, len(key_points) - 1, SAMPLED).astype(int))
    shown = []
    for split in places:
        for kind in ("img", "label"):
            (folder / split / f"{split}_{kind}").mkdir(parents=True, exist_ok=True)
    with contextlib.closing(source.video.frames(key_points.fps, source.box, key_points.size)) as frames:
        for t, frame in enumerate(counted(frames, len(key_points), "Frames")):
            if t in sampled:
                shown.append(frame.copy())
            if split := split_of.get(t):
                drawing = draw(key_points[t:t + 1].joints(), height, width)[0]
                for kind, image in (("img", frame), ("label", drawing)):
                    Image.fromarray(image).save(folder / split / f"{split}_{kind}" /
                                                f"frame{NUMBERS * number + t:09d}.png")
    return (np.stack(shown), key_points[sampled[:len(shown)]]), t + 1


def _split(indices, split, fps):
    """Frames of a video by split: all, or the last part for validation, after a gap of up to a second."""
    if split != "both":
        return {split: indices}
    count = max(2, round(VALIDATION * len(indices)))
    gap = min(round(fps), len(indices) // 20)
    return {"train": indices[:max(0, len(indices) - count - gap)], "val": indices[-count:]}


def background_movement(frames, key_points):
    """Measure how much the background moves: 0 for a camera on a tripod in an empty room.

    Args:
        frames: (N, H, W, 3) uint8.
        key_points: `KeyPoints` of the N frames, in their pixels. The person's box, widened by a tenth of its height,
            is left out.

    Returns:
        Mean absolute difference of the other pixels from their median over time, in levels of 255.
    """
    median = np.stack([np.median(rows, axis=0) for rows in frames.swapaxes(0, 1)]).astype(np.float32)
    y, x = np.mgrid[0:frames.shape[1], 0:frames.shape[2]]
    total = pixels = 0
    for frame, points, present in zip(frames, key_points.points, key_points.present, strict=True):
        outside = np.ones(x.shape, bool)
        if present:
            (left, top), (right, bottom) = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
            margin = 0.1 * (bottom - top) + 1
            outside = (x < left - margin) | (x > right + margin) | (y < top - margin) | (y > bottom + margin)
        total += float(np.abs(frame - median)[outside].sum()) / 3
        pixels += int(outside.sum())
    return total / pixels if pixels else 0.0


def _statistics(key_points):
    """`retarget.Person` of the training frames as a dict; None if no frame shows a person whole."""
    try:
        return retarget.measure(key_points).to_dict()
    except InputError as error:
        say(f"Models of this data set will not work with --retarget: {error}")
        return None


def _sheet(samples, size):
    """A contact sheet of frames with their key points, enlarged, with the skeletons over them."""
    width, height = size
    scale = max(1, round(256 / height))
    pictures = [Image.fromarray(frame).resize((width * scale, height * scale), Image.Resampling.LANCZOS)
                for frames, _ in samples for frame in frames]
    skeletons = [draw(key_points.cropped((0, 0, width, height), (width * scale, height * scale)).joints(),
                      height * scale, width * scale) for _, key_points in samples]
    return film.contact_sheet(film.overlay(np.stack(pictures), np.concatenate(skeletons)), len(pictures))


def _say_what_next(out, record):
    """Print the result, what is likely to fail with this footage, and the next command."""
    train, val = record["frames"]["train"], record["frames"]["val"]
    height, width = record["frame_size"]
    say(f"{out}: {train} frames for training and {val} for validation, {height}x{width} pixels (height x width), at "
        f"{record['fps']:.4g} frames per second; look at {out / 'sheet.png'} before you train")
    for source in record["sources"]:
        if source["background_movement"] > MOVING:
            say(f"{source['path']}: the background moves (by {source['background_movement']:.0f} levels of 255 on "
                f"average; with a still camera, by less than {MOVING}). The poses do not describe this movement, so "
                "films will be blurred there; film with a camera that stands still")
    if train < FEW:
        say(f"{train} training frames are few: films will look right for similar poses, and will fail for others. "
            "A minute of varied movement, filmed from one place, is a good start")
    if record["fps"] < 12:
        say(f"At {record['fps']:.4g} frames per second, limbs move far from frame to frame, so films will stutter; "
            "film with 25 or 30")
    clip = "" if record["longest"] >= CLIP else f" --train_vi_len {max(2, record['longest'] // 2)}"
    say(f"Next   {program('train')} --data_dir {shlex.quote(str(out))} --preset best --max_minutes 15{clip}")
