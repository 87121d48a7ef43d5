"""Footage: frames with their poses, from a folder in the lab's layout or from the studio.

The lab's layout is ``ROOT/{train,val}/{train,val}_img/*.png`` and ``..._label/*.png``, ordered by the number in the
file name and paired by name. A gap in the numbers is a cut, and no clip crosses a cut. `arrays` describes the layout of
already decoded footage.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cvae_tf.config import STUDIO, check_ranges
from cvae_tf.data import arrays, images, mirror, record
from cvae_tf.data.clips import Clips
from cvae_tf.errors import InputError
from cvae_tf.pose import skeleton
from cvae_tf.pose.keypoints import KeyPoints
from cvae_tf.studio import scene as studio

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Footage:
    """Frames and the poses drawn for them, in one or more uncut sequences.

    Attributes:
        frames, poses: (N, H, W, 3) uint8; frame n and pose n show the same instant.
        sequences: (start, length) of each uncut sequence, in order.
        names: names of the frames, for messages; their numbers by default.
        checksum: checksum of the pixels.
        palette: `mirror.Palette` of the poses; None if it is unknown.
        key_points: `KeyPoints` of the frames, from which their poses were drawn; None if they are unknown. Clips can
            be mirrored with a palette or with key points.
        split: ``"train"`` or ``"val"``. The `clips` of ``"val"`` are the same each time.
    """

    frames: np.ndarray
    poses: np.ndarray
    sequences: tuple
    names: tuple = ()
    checksum: str = ""
    palette: mirror.Palette | None = None
    split: str = "train"
    key_points: KeyPoints | None = None

    @cached_property
    def mirrored_poses(self) -> np.ndarray | None:
        """The poses of the mirrored frames, drawn from the key points: (N, H, W, 3) uint8; None without key points."""
        if self.key_points is not None:
            height, width = self.frames.shape[1:3]
            mirrored = self.key_points.cropped((0, 0, *self.key_points.size), (width, height)).mirrored()
            return skeleton.draw(mirrored.joints(), height, width)

    @property
    def limb_hues(self) -> tuple | None:
        """The hues of the limbs in the poses, for `UNet`; None if their colours are unknown."""
        return self.palette and skeleton.part_hues(self.palette.style)

    def clips(self, length: int, batch_size: int, *, seed: int = 0, context: str = "sequence", mirror: bool = False,
              zoom: float = 1.0, steps_per_epoch: int = 0) -> "tf.data.Dataset":
        """One epoch of batches for Keras's ``fit``.

        In the training split, clips begin at random frames, and each iteration over the data set draws new clips. In
        the validation split, clips tile the sequences in order and are the same each time. Their context frame is the
        clip's first frame, and the last batch may be smaller.

        Args:
            length: frames in a clip.
            batch_size: clips in a batch.
            seed, context, mirror, zoom, steps_per_epoch: as for `Clips`; used for the training split only.

        Returns:
            A `tf.data.Dataset` of dicts of uint8 tensors: ``"frames"`` and ``"poses"`` (B, T, H, W, 3), ``"context"``
            (B, H, W, 3).

        Raises:
            InputError: the footage is too short for one clip, or ``mirror`` is set and the palette is unknown.
        """
        import tensorflow as tf  # slow to import, and not needed by the rest of the module

        if self.split == "val":
            single = Clips(self, length, 1, order="tiled", context="clip")
            clips = single.dataset(0, single.steps_in_epoch(0))
            return clips.map(lambda batch: {name: array[0] for name, array in batch.items()}).batch(batch_size)
        clips = Clips(self, length, batch_size, context=context, mirror=mirror, zoom=zoom,
                      steps_per_epoch=steps_per_epoch, seed=seed)
        steps, epochs = clips.steps_in_epoch(0), itertools.count()

        def batches():
            first = steps * next(epochs)
            yield from map(clips.batch, range(first, first + steps))

        signature = clips.dataset(0, 1).element_spec
        dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
        return dataset.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)

    def longest(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The first ``length`` frames and poses of the longest sequence, uint8; the whole sequence if it is shorter.

        Raises:
            InputError: the longest sequence has fewer than two frames.
        """
        start, available = max(self.sequences, key=lambda sequence: sequence[1])
        if available < 2:
            raise InputError("validation needs at least 2 frames with consecutive numbers; "
                             f"the longest uncut sequence has {available}")
        span = slice(start, start + min(length, available))
        return self.frames[span], self.poses[span]


class Splits(NamedTuple):
    """The `Footage` of the two splits of a data set."""

    train: Footage
    val: Footage


def load_footage(data_dir: str | Path = STUDIO, *, frame_size: tuple[int, int] | None = None, max_frames: int = 0,
                 studio_sequences: int = 4, studio_seed: int = 0, studio_variety: bool = False,
                 studio_lamp: bool = False) -> Splits:
    """Load the footage of a data set.

    Args:
        data_dir: folder in the lab's layout, or ``"studio"`` for the built-in data set.
        frame_size: (height, width) of the frames in pixels, 8 to 1024 each. Larger images are resized. Already
            decoded footage (see `arrays`) must have this size. None: the size of a prepared data set's frames (see
            `record`), and (32, 64) for others.
        max_frames: number of frames to load from each split, from its first frame on; 0: all.
        studio_sequences: number of training sequences of the studio, 1 to 1000.
        studio_seed, studio_variety, studio_lamp: as for `studio.scene.sequence`.

    Returns:
        `Splits` with ``train`` and ``val``.

    Raises:
        InputError: a value is out of range, a folder is missing or empty, a frame has no pose, or a file is unreadable.
    """
    height, width = frame_size or record.frame_size(data_dir) or (32, 64)
    check_ranges(dict(frame_H=(8, 1024), frame_W=(8, 1024), max_frames=(0, 10**9), studio_sequences=(1, 1000),
                      studio_seed=(0, 2**31 - 1)), frame_H=height, frame_W=width, max_frames=max_frames,
                 studio_sequences=studio_sequences, studio_seed=studio_seed)
    if data_dir != STUDIO:
        return Splits(*(_read_split(Path(data_dir), split, height, width, max_frames) for split in Splits._fields))
    length = min(studio.LENGTH, max_frames or studio.LENGTH)
    count = min(studio_sequences, max_frames // length or studio_sequences)
    numbers = {"train": range(1, 1 + count), "val": [0]}
    return Splits(*(_draw_studio(split, numbers[split], height, width, length=length, seed=studio_seed,
                                 variety=studio_variety, lamp=studio_lamp) for split in Splits._fields))


def _draw_studio(split, numbers, height, width, *, length, **options):
    """Sequences ``numbers`` of the studio as `Footage`."""
    sequences = studio.sequences(numbers, height, width, length=length, **options)
    frames, poses = (np.concatenate(parts) for parts in zip(*sequences, strict=True))
    return Footage(frames, poses, tuple((start, length) for start in range(0, len(frames), length)),
                   tuple(f"studio {number}, frame {t}" for number in numbers for t in range(length)),
                   arrays.checksum(frames, poses), mirror.STUDIO, split)


def _read_split(root, split, height, width, max_frames):
    """The split of a data set on disk as `Footage`."""
    folder, names = root / split, ()
    found = arrays.read_arrays(folder, height, width)
    if not found:
        frame_paths, pose_paths = images.pair(folder / f"{split}_img", folder / f"{split}_label")
        images.check_shapes(frame_paths[0], pose_paths[0], height, width)
        names = tuple(frame_paths[:max_frames or None])
        found = arrays.decode(root, split, names, pose_paths[:len(names)], height, width)
    frames, poses, sequences, checksum = found
    count = min(len(frames), max_frames or len(frames))
    sequences = tuple((start, min(length, count - start)) for start, length in sequences if start < count)
    palette, key_points = None, None
    if split == "train":
        key_points = record.key_points_of(root, names) if names else None
        palette = mirror.LAB if key_points is not None else mirror.find_palette(poses[:count])
    return Footage(frames[:count], poses[:count], sequences, names, checksum, palette, split, key_points)
