"""Footage, from a folder in the lab's layout or from the studio, and the training clips drawn from it.

The lab's layout: ``ROOT/{train,val}/{train,val}_img/*.png`` and ``..._label/*.png``, ordered by the number in the file
name and paired by name. A gap in the numbers is a cut, and no clip crosses a cut. No TensorFlow.
"""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image

from cvae_tf import studio
from cvae_tf.config import STUDIO
from cvae_tf.errors import InputError
from cvae_tf.files import atomic

CACHE_VERSION = "1"  # raise it when decoding or resizing changes


def to_float(pixels):
    """uint8 pixels -> float32 in [0, 1]. Nothing else in the package scales pixels this way."""
    return np.asarray(pixels, np.float32) / np.float32(255)


@dataclass(frozen=True)
class Footage:
    """Frames and the poses drawn for them, in one or more uncut sequences.

    Attributes:
        frames, poses: (N, H, W, 3) uint8; frame n and pose n are the same instant.
        sequences: (start, length) of each uncut run, in order.
    """

    frames: np.ndarray
    poses: np.ndarray
    sequences: tuple

    def longest(self, length):
        """The first ``length`` frames and poses of the longest sequence, float32 in [0, 1]; all of it if shorter."""
        start, available = max(self.sequences, key=lambda sequence: sequence[1])
        if available < 2:
            raise InputError("validation needs at least 2 frames with consecutive numbers; "
                             f"the longest uncut run has {available}")
        span = slice(start, start + min(length, available))
        return to_float(self.frames[span]), to_float(self.poses[span])


def load_footage(config, split):
    """The footage of ``split``, ``"train"`` or ``"val"``, of ``config.data_dir``.

    Raises:
        InputError: a folder is missing or empty, a frame has no pose, or a file is not a readable image.
    """
    size = config.frame_H, config.frame_W
    if config.data_dir == STUDIO:
        length = min(studio.LENGTH, config.max_frames or studio.LENGTH)
        count = min(config.studio_sequences, config.max_frames // length or config.studio_sequences)
        sequences = studio.sequences(range(1, 1 + count) if split == "train" else [0], *size, length=length,
                                     seed=config.studio_seed, variety=config.studio_variety)
        frames, poses = (np.concatenate(arrays) for arrays in zip(*sequences, strict=True))
        lengths = [len(frames) for frames, _ in sequences]
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        return Footage(frames, poses, tuple(zip(starts, lengths, strict=True)))
    folder = Path(config.data_dir) / split
    frame_paths, pose_paths = pair(folder / f"{split}_img", folder / f"{split}_label")
    if config.max_frames:
        frame_paths, pose_paths = frame_paths[:config.max_frames], pose_paths[:config.max_frames]
    frames, poses = read_cached(Path(config.data_dir), split, frame_paths, pose_paths, *size)
    return Footage(frames, poses, uncut(frame_paths))


def uncut(paths):
    """(start, length) of each run of images with consecutive numbers, in order."""
    numbers = np.array([number_of(path) for path in paths])
    cuts = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
    return tuple((a, b - a) for a, b in zip(cuts, cuts[1:], strict=False))


def number_of(path):
    """The number in a file's name, of all its digits, as the lab orders its frames."""
    digits = "".join(re.findall(r"\d", path.stem))
    if not digits:
        raise InputError(f"{path}: the name holds no number; name the images like frame000001.png")
    return int(digits)


def list_images(folder):
    """The PNG files of a folder by the number in their names; hidden files do not count.

    Raises:
        InputError: the folder is missing or holds no PNG file, or two files have the same number.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a folder of PNG images")
    try:
        files = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror})") from error
    paths = sorted((p for p in files if p.suffix.lower() == ".png" and not p.name.startswith(".")), key=number_of)
    if not paths:
        raise InputError(f"{folder}: no PNG images in this folder")
    for one, other in zip(paths, paths[1:], strict=False):
        if number_of(one) == number_of(other):
            raise InputError(f"{folder}: {one.name} and {other.name} have the same number; remove one of them")
    return paths


def pair(frame_folder, pose_folder):
    """The images of ``frame_folder`` and, by equal file name, their poses in ``pose_folder``: two lists of paths.

    Raises:
        InputError: a folder is missing or empty, or a frame has no pose.
    """
    frame_paths = list_images(frame_folder)
    poses = {path.name: path for path in list_images(pose_folder)}
    for path in frame_paths:
        if path.name not in poses:
            raise InputError(f"{path}: this frame has no pose; expected {Path(pose_folder) / path.name}")
    return frame_paths, [poses[path.name] for path in frame_paths]


def read_image(path, height, width):
    """An image as (height, width, 3) uint8 RGB, resized as the lab does: Pillow's bilinear filter with antialiasing.

    Raises:
        InputError: the file is missing or is not a whole, readable image.
    """
    try:
        image = Image.fromarray(iio.imread(path, plugin="pillow", index=0, mode="RGB"))
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({error}); replace or remove it") from error


def read_images(paths, height, width):
    """Decode images on all cores, with a progress bar from a few hundred on: -> (N, height, width, 3) uint8."""
    out = np.empty((len(paths), height, width, 3), np.uint8)
    progress = lambda done: None  # noqa: E731
    if len(paths) >= 500:
        import keras  # slow to import, and only needed here

        progress = keras.utils.Progbar(len(paths), unit_name="image").update
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for i, image in enumerate(pool.map(lambda path: read_image(path, height, width), paths)):
                out[i] = image
                if i % 100 == 99 or i + 1 == len(paths):
                    progress(i + 1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return out


def read_cached(root, name, frame_paths, pose_paths, height, width):
    """Frames and poses, two (N, height, width, 3) uint8, decoded once and then kept in a file below ``root``.

    The file's name begins with ``name`` and changes when any image does.

    Raises:
        InputError: an image is missing or unreadable.
    """
    paths = frame_paths + pose_paths
    try:
        listing = [(str(p.relative_to(root)), s.st_size, s.st_mtime_ns) for p in paths for s in [p.stat()]]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
    key = hashlib.sha256(repr((CACHE_VERSION, str(root.resolve()), listing)).encode()).hexdigest()[:16]
    file = f"{name}_{height}x{width}_{key}.npy"
    shape = (2, len(frame_paths), height, width, 3)
    beside = root / ".cvae_tf_cache"
    elsewhere = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cvae_tf"
    for folder in (beside, elsewhere):
        try:
            cached = np.load(folder / file, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            continue
        if cached.shape == shape and cached.dtype == np.uint8:
            return cached[0], cached[1]
    print(f"Reading {len(paths)} images of {root} ({name}) at {height}x{width}", flush=True)
    images = read_images(paths, height, width).reshape(shape)
    for folder in (beside, elsewhere):
        try:
            with atomic(folder / file) as unfinished, open(unfinished, "wb") as stream:
                np.save(stream, images)
            break
        except InputError as error:
            print(f"Not cached there: {error}", flush=True)
    return images[0], images[1]


@dataclass(frozen=True)
class Clips:
    """Training batches as a pure function of the seed and the step, so that a run continues exactly.

    Args:
        footage: what to draw from.
        length: frames in a clip.
        batch_size: clips in a batch.
        tiled: clips tile each sequence in order (the lab) instead of starting anywhere.
        context: ``"sequence"``: the context frame is drawn from anywhere in the clip's sequence; ``"clip"``: it is the
            clip's first frame.
        share: share of the frames to use, the first ones.
        early_share, early_epochs: a smaller share in the first epochs (``--fast_train``).
        steps_per_epoch: batches in an epoch; 0: as many clips as fit the frames once.
        seed: of the order and of the context frames.

    Raises:
        InputError: the footage is too short for one clip.
    """

    footage: Footage
    length: int
    batch_size: int
    tiled: bool = False
    context: str = "sequence"
    share: float = 1.0
    early_share: float = 1.0
    early_epochs: int = 0
    steps_per_epoch: int = 0
    seed: int = 0
    _starts: tuple = field(init=False, repr=False)

    def __post_init__(self):
        shares = (min(self.share, self.early_share), self.share)
        object.__setattr__(self, "_starts", tuple(self._list_starts(share) for share in shares))

    def _list_starts(self, share):
        """(start of a clip, start and length of its sequence) for each clip in the first ``share`` of the frames."""
        limit = int(len(self.footage.frames) * share)
        stride = self.length if self.tiled else 1
        sequences = [(begin, max(0, min(length, limit - begin))) for begin, length in self.footage.sequences]
        starts = [(start, begin, length) for begin, length in sequences
                  for start in range(begin, begin + length - self.length + 1, stride)]
        if not starts:
            longest = max(length for _, length in sequences)
            raise InputError(f"the training data are too short: a clip takes {self.length} frames and the longest "
                             f"uncut run in use has {longest}; lower --train_vi_len or use more frames")
        return np.array(starts)

    def steps_in_epoch(self, epoch):
        """Number of batches in ``epoch`` (0, 1, ...); what does not fill a batch is left out, as in the lab."""
        if self.steps_per_epoch:
            return self.steps_per_epoch
        starts = self._starts[epoch >= self.early_epochs]
        clips = len(starts) if self.tiled else len(starts) // self.length
        return max(1, clips // self.batch_size)

    def first_step(self, epoch):
        """Number of batches before ``epoch``."""
        early = min(epoch, self.early_epochs)
        return early * self.steps_in_epoch(0) + (epoch - early) * self.steps_in_epoch(self.early_epochs)

    def epoch_of(self, step):
        """The epoch that ``step`` (0, 1, ...) belongs to."""
        early_steps = self.first_step(self.early_epochs)
        if step < early_steps:
            return step // self.steps_in_epoch(0)
        return self.early_epochs + (step - early_steps) // self.steps_in_epoch(self.early_epochs)

    def batch(self, step):
        """The batch of ``step``.

        Returns:
            ``(frames, poses, context)``: (T, B, H, W, 3) twice and (B, H, W, 3), float32 in [0, 1].
        """
        epoch = self.epoch_of(step)
        starts = self._starts[epoch >= self.early_epochs]
        random = np.random.default_rng([self.seed, step])
        if self.tiled:
            first = (step - self.first_step(epoch)) * self.batch_size
            chosen = starts[np.arange(first, first + self.batch_size) % len(starts)]
        else:
            chosen = starts[random.integers(len(starts), size=self.batch_size)]
        start, begin, length = chosen.T
        times = np.arange(self.length)[:, None] + start  # (T, B)
        context = begin + random.integers(length) if self.context == "sequence" else start
        return (to_float(self.footage.frames[times]), to_float(self.footage.poses[times]),
                to_float(self.footage.frames[context]))

    def dataset(self, first_step, last_step):
        """A `tf.data.Dataset` of the batches of steps ``first_step`` to ``last_step - 1``, prepared ahead."""
        import tensorflow as tf  # the rest of the module, and so ``python -m cvae_tf.studio``, does without

        size = self.footage.frames.shape[1:]
        clip = (self.length, self.batch_size, *size)

        def load(step):
            batch = tf.numpy_function(lambda s: self.batch(int(s)), [step], (tf.float32,) * 3, stateful=False)
            return tuple(tf.ensure_shape(x, shape)
                         for x, shape in zip(batch, (clip, clip, (self.batch_size, *size)), strict=True))

        return tf.data.Dataset.range(first_step, last_step).map(load, num_parallel_calls=2).prefetch(2)


def training_clips(config, footage):
    """`Clips` of ``footage`` as ``config`` wants them."""
    return Clips(footage, config.train_vi_len, config.batch_size, tiled=config.clips == "tiled",
                 context=config.context, share=config.partial, early_share=config.fast_partial,
                 early_epochs=config.fast_train_epoch if config.fast_train else 0,
                 steps_per_epoch=config.steps_per_epoch, seed=config.seed)
