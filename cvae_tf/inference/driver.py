"""Sources of the poses of a film: the studio, folders of images, videos, and key points in a file."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvae_tf.config import STUDIO, load_config, studio_of
from cvae_tf.data import images
from cvae_tf.data.record import POSES
from cvae_tf.data.sequences import load_sequences
from cvae_tf.data.video import default_rate, probe
from cvae_tf.errors import InputError, say
from cvae_tf.inference.origin import STYLES, read_origin
from cvae_tf.pose import formats, retarget
from cvae_tf.pose.keypoints import read_poses
from cvae_tf.pose.skeleton import draw
from cvae_tf.preparation.track import clean, follow
from cvae_tf.studio.scene import FPS

KEY_POINTS = {".json", ".bvh", ".npz", ".csv", ".h5", ".hdf5", ".slp"}


@dataclass(frozen=True)
class Driver:
    """The source of the T poses of a film.

    Attributes:
        first_frame: (H, W, 3) floats in [0, 1], the given frame.
        given: 1 if pose 0 belongs to the given frame, which then begins the film, else 0.
        length: T, the number of poses.
        read: function from a slice of the T poses to ``(poses, truth)``, each (n, H, W, 3) floats in [0, 1]; ``truth``
            is None if it is unknown. Each slice must begin where the one before ended.
        fps: frames per second.
        show: function like ``read``, to the driver's own pictures (n, H, any width, 3) uint8; None if there are none.
    """

    first_frame: np.ndarray
    given: int
    length: int
    read: Callable
    fps: float
    show: Callable | None = None


def is_key_points(path):
    """Whether the flag ``--poses`` names a video or key points, from which poses are drawn, instead of drawn poses."""
    path = Path(path)
    if path.is_dir():
        return (path / POSES).is_file() or any(path.glob("*_keypoints.json"))
    return path.exists() or bool(path.suffix)


def from_studio(model):
    """The validation sequence of the studio, in the variant that an `ExportedModel` was trained on."""
    (sequence,) = load_sequences(STUDIO, "val", model.height, model.width, **studio_of(model.path))

    def read(part):
        return images.to_float(sequence.poses[part]), images.to_float(sequence.frames[part])

    return Driver(images.to_float(sequence.frames[0]), 1, len(sequence.poses), read, FPS)


def from_images(model, first_frame, poses, truth):
    """Images from the folders ``poses`` and ``truth`` and the file ``first_frame``, read only when needed.

    Raises:
        InputError: an image is missing or unreadable, or does not have the shape of the model's frames.
    """
    size, truth_paths, pose_paths = (model.height, model.width), None, images.list_images(poses)
    origin = read_origin(model.path)
    if len(images.uncut(pose_paths)) > 1:
        say(f"{poses}: the numbers of the images have gaps; the film continues across them")
    if truth:
        by_name = {path.name: path for path in images.list_images(truth)}
        missing = [path.name for path in pose_paths if path.name not in by_name]
        if missing:
            raise InputError(f"{truth}: no true frame {missing[0]} for the pose of that name")
        truth_paths = [by_name[path.name] for path in pose_paths]
    first_path = Path(first_frame) if first_frame else truth_paths[0] if truth else None
    if first_path:
        images.check_shapes(first_path, pose_paths[0], *size)
    if truth and first_frame:
        images.check_shapes(truth_paths[0], pose_paths[0], *size)
    # The images of all parts must have the size of the first image.
    sources = [(paths, paths and images.image_size(paths[0])) for paths in (pose_paths, truth_paths)]

    def read(part):
        return [paths and images.to_float(images.read_images(paths[part], *size, expected))
                for paths, expected in sources]

    first_image = images.to_float(images.read_image(first_path, *size)) if first_path else _first_frame(model, origin)
    given = int(first_path is not None and first_path.name == pose_paths[0].name)
    return Driver(first_image, given, len(pose_paths), read, origin.fps if origin else FPS)


def from_key_points(model, first_frame, poses, *, fit=None, view="front"):
    """Draw poses for a model, from a video or from key points.

    Args:
        model: an `ExportedModel`.
        first_frame: image of the given frame; None: the first frame of the model's own footage.
        poses: path of a video, of a prepared data set, or of key points as for `formats.read_key_points`.
        fit: None: the driver's picture is scaled to the height of the model's frames, and cut or widened at the sides;
            ``"place"`` or ``"limbs"``: retargeting to the person of the model's footage.
        view: direction from which motion capture (BVH) is seen: ``"front"``, ``"side"`` or degrees.

    Returns:
        A `Driver`, at the frame rate of the model's footage.

    Raises:
        InputError: a file cannot be read or shows no person, or the model keeps too little of its footage.
    """
    origin, size, video = read_origin(model.path), (model.width, model.height), None
    style = origin.style if origin else "studio" if _is_of_studio(model.path) else "lab"
    if style is None:
        raise InputError(f"{model.path}: the poses of its footage have colours that this program does not know; give "
                         "--poses with a folder of poses that are drawn as in that footage")
    if view != "front" and Path(poses).suffix.lower() != ".bvh":
        raise InputError("--view needs --poses with motion capture (.bvh)")
    fps = origin.fps if origin else FPS
    if fit and not (origin and origin.person):
        raise InputError(f"{model.path}: keeps no measurements of the person of its footage, which --retarget needs; "
                         "train on a data set of cvae-tf prepare, or leave --retarget out")
    if first_frame:
        images.check_shapes(first_frame, first_frame, model.height, model.width)
        first = images.to_float(images.read_image(first_frame, model.height, model.width))
    else:
        first = _first_frame(model, origin)
    if (Path(poses) / POSES).is_file():  # a prepared data set
        found, _ = read_poses(Path(poses) / POSES)
    elif Path(poses).suffix.lower() in KEY_POINTS or Path(poses).is_dir():
        found = formats.read_key_points(poses, view=view)
        if Path(poses).suffix.lower() != ".bvh":
            found = clean(found)
    else:
        video = probe(poses)
        found = clean(follow(video, default_rate([video])).key_points)
    if not found.present.any():
        raise InputError(f"{poses}: no person was found in {len(found)} frames; give a video that shows one person")
    found = found.resampled(fps)
    if fit:
        person = retarget.measure(found, poses)
        placed = retarget.retarget(found, person, origin.person, size, limbs=fit == "limbs")
    else:
        placed = found.cropped(_same_shape(found.size, size), size)
    shown = found.cropped((0, 0, *found.size), (max(1, round(found.size[0] * size[1] / found.size[1])), size[1]))

    def read(part):
        return images.to_float(draw(placed[part].joints(), model.height, model.width, STYLES[style])), None

    def drawn(part):
        return draw(shown[part].joints(), shown.size[1], shown.size[0], STYLES[style])

    show = drawn if video is None else _pictures(video, fps, shown.size)
    return Driver(first, 0, len(found), read, fps, show)


def _same_shape(picture, size):
    """The box (x, y, width, height) around the middle of a picture with its height, in the shape of ``size``."""
    width = picture[1] * size[0] / size[1]
    return (picture[0] - width) / 2, 0, width, picture[1]


def _pictures(video, fps, size):
    """A function like `Driver.read`, to the frames of a video. After the end of the video, the last frame repeats."""
    frames, last = video.frames(fps, size=size), np.full((size[1], size[0], 3), 255, np.uint8)

    def show(part):
        nonlocal last
        count = part.stop - part.start
        found = list(itertools.islice(frames, count))
        last = found[-1] if found else last
        return np.stack(found + [last] * (count - len(found)))

    return show


def _is_of_studio(model):
    """Whether an exported model without a description of its footage was trained on the studio."""
    config = Path(model) / "config.json"
    return config.is_file() and load_config(config).data_dir == STUDIO


def _first_frame(model, origin):
    if origin is None:
        raise InputError("--poses needs the first frame: give --first_frame F.png or --truth FOLDER, as "
                         f"{model.path} keeps no frame of its footage")
    if origin.first_frame.shape[:2] != (model.height, model.width):
        raise InputError(f"{model.path}: its first_frame.png is not of the model's size; give --first_frame")
    return images.to_float(origin.first_frame)
