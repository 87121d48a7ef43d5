"""What an exported model keeps of the footage that it was trained on: a first frame, and measurements of the person."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cvae_tf.config import STUDIO
from cvae_tf.data import images, mirror
from cvae_tf.data.record import read_record
from cvae_tf.errors import InputError
from cvae_tf.files import plain
from cvae_tf.pose import retarget, skeleton
from cvae_tf.studio import scene as studio

FIRST_FRAME, FOOTAGE = "first_frame.png", "footage.json"  # names of the files
STYLES = {"lab": skeleton.LAB, "studio": skeleton.STUDIO}


@dataclass(frozen=True)
class Origin:
    """The footage of a model.

    Attributes:
        first_frame: (H, W, 3) uint8, the first training frame that shows a person.
        style: key of `STYLES`, the style in which its poses are drawn; None if it is unknown.
        fps: frames per second.
        person: `retarget.Person`, measured on the key points; None if there are none.
    """

    first_frame: np.ndarray
    style: str | None
    fps: float
    person: retarget.Person | None


def origin_of(footage, data_dir, studio_seed=0):
    """The `Origin` of training `Footage` from a data set.

    Args:
        footage: the training split of ``data_dir``.
        data_dir: folder of the data set, or ``"studio"``.
        studio_seed: seed of the studio's footage.
    """
    height, width = footage.frames.shape[1:3]
    key_points, record, person = footage.key_points, read_record(data_dir), None
    style = "studio" if footage.palette is mirror.STUDIO else "lab" if footage.palette is mirror.LAB else None
    if data_dir == STUDIO:
        key_points = studio.key_points(1, height, width, seed=studio_seed)
    elif key_points is not None:
        style = "lab"  # as `prepare` draws
    if key_points is not None:
        try:
            person = retarget.measure(key_points)
        except InputError:  # `prepare` has printed that no frame shows a whole person
            person = None
    first = next((t for t in range(len(footage.poses)) if footage.poses[t].min() < 255), 0)
    return Origin(np.array(footage.frames[first]), style, float(record["fps"]) if record else studio.FPS, person)


def write_origin(folder, origin):
    """Write the two files of an `Origin` into the folder of an exported model that is being made."""
    Image.fromarray(origin.first_frame).save(Path(folder) / FIRST_FRAME)
    content = {"style": origin.style, "fps": origin.fps, "person": origin.person and origin.person.to_dict()}
    (Path(folder) / FOOTAGE).write_text(json.dumps(content, indent=2) + "\n")


def read_origin(folder):
    """The `Origin` that an exported model keeps, or None if it keeps none.

    Raises:
        InputError: a file is damaged.
    """
    path = Path(folder) / FOOTAGE
    if not os.path.lexists(path):
        return None
    try:
        content = json.loads(plain(path).read_text(encoding="utf-8"))
        style, fps, person = content["style"], float(content["fps"]), content["person"]
        if style not in (None, *STYLES) or not 0 < fps <= 1000:
            raise ValueError("values out of range")
    except Exception as error:
        raise InputError(f"{path}: not a readable description of footage ({type(error).__name__}: {error}); export the "
                         "model again") from error
    first = Path(folder) / FIRST_FRAME
    width, height = images.image_size(first)
    return Origin(images.read_image(first, height, width), style, fps,
                  person and retarget.Person.from_dict(person, path))
