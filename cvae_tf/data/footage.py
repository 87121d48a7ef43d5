"""Footage, from a folder in the lab's layout or from the studio, and the training clips drawn from it.

The lab's layout: ``ROOT/{train,val}/{train,val}_img/*.png`` and ``..._label/*.png``, ordered by the number in the file
name and paired by name. A gap in the numbers is a cut, and no clip crosses a cut. Or already decoded, as arrays: see
`images.read_arrays`. No TensorFlow.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cvae_tf.config import STUDIO
from cvae_tf.data import images, mirror
from cvae_tf.data.images import to_float
from cvae_tf.errors import InputError
from cvae_tf.studio import scene as studio


@dataclass(frozen=True)
class Footage:
    """Frames and the poses drawn for them, in one or more uncut sequences.

    Attributes:
        frames, poses: (N, H, W, 3) uint8; frame n and pose n are the same instant.
        sequences: (start, length) of each uncut run, in order.
        names: of the frames, for messages; none will do.
        checksum: of the pixels.
        mirrored: (N, H, W, 3) uint8, the poses of the mirrored frames, or None.
    """

    frames: np.ndarray
    poses: np.ndarray
    sequences: tuple
    names: tuple = ()
    checksum: str = ""
    mirrored: np.ndarray | None = None

    def longest(self, length):
        """The first ``length`` frames and poses of the longest sequence, float32 in [0, 1]; all of it if shorter."""
        start, available = max(self.sequences, key=lambda sequence: sequence[1])
        if available < 2:
            raise InputError("validation needs at least 2 frames with consecutive numbers; "
                             f"the longest uncut run has {available}")
        span = slice(start, start + min(length, available))
        return to_float(self.frames[span]), to_float(self.poses[span])


def load_footage(config, split):
    """The footage of ``split``, ``"train"`` or ``"val"``, of ``config.data_dir``; for training with mirrored poses.

    Raises:
        InputError: a folder is missing or empty, a frame has no pose, a file is not a readable image, or poses to be
            mirrored are drawn in the colours of neither the lab nor the studio.
    """
    footage = _read_footage(config, split)
    if not config.mirror or split != "train":
        return footage
    uneven, hues = min(((mirror.unevenness(footage.poses, *hues), hues) for hues in (mirror.LAB, studio.limb_hues())),
                       key=lambda pair: pair[0])
    if uneven > mirror.UNEVEN:
        raise InputError(f"{config.data_dir}: the poses have other colours than the lab's, by which --mirror tells "
                         "left limbs from right ones; give --no_mirror")
    return dataclasses.replace(footage, mirrored=mirror.mirrored(footage.poses, *hues))


def _read_footage(config, split):
    size = config.frame_H, config.frame_W
    if config.data_dir == STUDIO:
        length = min(studio.LENGTH, config.max_frames or studio.LENGTH)
        count = min(config.studio_sequences, config.max_frames // length or config.studio_sequences)
        numbers = range(1, 1 + count) if split == "train" else [0]
        sequences = studio.sequences(numbers, *size, length=length, seed=config.studio_seed,
                                     variety=config.studio_variety, lamp=config.studio_lamp)
        frames, poses = (np.concatenate(arrays) for arrays in zip(*sequences, strict=True))
        lengths = [len(frames) for frames, _ in sequences]
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        names = tuple(f"studio {number}, frame {t}" for number in numbers for t in range(length))
        return Footage(frames, poses, tuple(zip(starts, lengths, strict=True)), names,
                       images.checksum(np.stack([frames, poses])))
    folder = Path(config.data_dir) / split
    arrays = images.read_arrays(folder, *size)
    if arrays:
        frames, poses, runs, checksum = arrays
        count = min(len(frames), config.max_frames or len(frames))
        runs = tuple((start, min(length, count - start)) for start, length in runs if start < count)
        return Footage(frames[:count], poses[:count], runs, checksum=checksum)
    frame_paths, pose_paths = images.pair(folder / f"{split}_img", folder / f"{split}_label")
    if config.max_frames:
        frame_paths, pose_paths = frame_paths[:config.max_frames], pose_paths[:config.max_frames]
    frames, poses, checksum = images.read_cached(Path(config.data_dir), split, frame_paths, pose_paths, *size)
    return Footage(frames, poses, images.uncut(frame_paths), tuple(frame_paths), checksum)


@dataclass(frozen=True)
class Clips:
    """Training batches as a pure function of the seed and the step, so that a run continues exactly.

    Args:
        footage: what to draw from; where it has mirrored poses, half of the clips are mirrored, at random.
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
        starts = np.concatenate([
            np.stack(np.broadcast_arrays(np.arange(begin, begin + length - self.length + 1, stride), begin, length), 1)
            for begin, length in sequences])
        if not len(starts):
            longest = max(length for _, length in sequences)
            raise InputError(f"the training data are too short: a clip takes {self.length} frames and the longest "
                             f"uncut run in use has {longest}; lower --train_vi_len, or use more frames or a "
                             "larger share (--partial, --fast_partial)")
        return starts

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
        random = np.random.default_rng([self.seed, step])
        start, begin, length = self._choose(step, random).T
        times = np.arange(self.length)[:, None] + start  # (T, B)
        context = begin + random.integers(length) if self.context == "sequence" else start
        frames, poses, context = self.footage.frames[times], self.footage.poses[times], self.footage.frames[context]
        if self.footage.mirrored is not None:
            chosen = random.random(self.batch_size) < 0.5
            frames[:, chosen], context[chosen] = frames[:, chosen, :, ::-1], context[chosen, :, ::-1]
            poses[:, chosen] = self.footage.mirrored[times[:, chosen]]
        return to_float(frames), to_float(poses), to_float(context)

    def _choose(self, step, random):
        """A row of `_list_starts` for each clip of a batch."""
        epoch = self.epoch_of(step)
        starts = self._starts[epoch >= self.early_epochs]
        if self.tiled:
            first = (step - self.first_step(epoch)) * self.batch_size
            return starts[np.arange(first, first + self.batch_size) % len(starts)]
        return starts[random.integers(len(starts), size=self.batch_size)]

    def names(self, step):
        """What the clips in the batch of ``step`` are called: the names of their first and last frames."""
        names = self.footage.names or range(len(self.footage.frames))
        starts = self._choose(step, np.random.default_rng([self.seed, step]))[:, 0]
        return [f"{names[start]} to {getattr(names[start + self.length - 1], 'name', names[start + self.length - 1])}"
                for start in starts]

    def dataset(self, first_step, last_step):
        """A `tf.data.Dataset` of the batches of steps ``first_step`` to ``last_step - 1``, prepared ahead."""
        import tensorflow as tf  # the rest of the module, and so ``python -m cvae_tf.studio.scene``, does without

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
                 context=config.context, share=config.partial,
                 early_share=config.fast_partial if config.fast_train else 1.0,
                 early_epochs=config.fast_train_epoch if config.fast_train else 0,
                 steps_per_epoch=config.steps_per_epoch, seed=config.seed)
