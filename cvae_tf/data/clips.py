"""Training clips: which frames each batch holds, as a function of the seed and the number of the step."""

from dataclasses import dataclass, field

import numpy as np

from cvae_tf.data import mirror
from cvae_tf.data.zoom import zoomed
from cvae_tf.errors import InputError

ZOOMED = 0.25  # share of the clips that are enlarged


@dataclass(frozen=True)
class Clips:
    """Batches of clips as a pure function of the seed and the step, so that a resumed run continues exactly.

    Args:
        footage: `Footage` to draw clips from.
        length: frames in a clip.
        batch_size: clips in a batch.
        order: ``"random"``: a clip begins at any frame; ``"tiled"``: the clips tile each sequence in order, as in the
            lab.
        context: ``"sequence"``: the context frame is any frame of the clip's sequence; ``"clip"``: it is the clip's
            first frame.
        mirror: mirror half of the clips, at random.
        zoom: enlarge a quarter of the clips, at random, by factors up to ``zoom``; 1: none. See `zoomed`.
        share: fraction of the frames in use, from the first frame on.
        early_share, early_epochs: a smaller fraction for the first ``early_epochs`` epochs (``--fast_train``).
        steps_per_epoch: batches in an epoch; 0: as many as are needed to hold each frame once.
        seed: seed of the order, of the context frames, of the mirroring and of the enlargements.

    Raises:
        InputError: the footage is too short for one clip, or ``mirror`` is set, and palette and key points are unknown.
    """

    footage: "Footage"  # noqa: F821
    length: int
    batch_size: int
    order: str = "random"
    context: str = "sequence"
    mirror: bool = False
    zoom: float = 1.0
    share: float = 1.0
    early_share: float = 1.0
    early_epochs: int = 0
    steps_per_epoch: int = 0
    seed: int = 0
    _starts: tuple = field(init=False, repr=False)

    def __post_init__(self):
        if self.mirror and self.footage.palette is None and self.footage.key_points is None:
            raise InputError("--mirror needs poses in the lab's or the studio's colours, by which it tells left limbs "
                             "from right ones; the training poses have others; give --no_mirror")
        if self.mirror:
            _ = self.footage.mirrored_poses  # drawn here, once, and not by several threads at the same time
        shares = (min(self.share, self.early_share), self.share)
        object.__setattr__(self, "_starts", tuple(self._list_starts(share) for share in shares))

    def _list_starts(self, share):
        """Rows (clip start, sequence start, sequence length) of the clips in the first ``share`` of the frames."""
        limit = int(len(self.footage.frames) * share)
        stride = self.length if self.order == "tiled" else 1
        sequences = [(begin, max(0, min(length, limit - begin))) for begin, length in self.footage.sequences]
        starts = np.concatenate([
            np.stack(np.broadcast_arrays(np.arange(begin, begin + length - self.length + 1, stride), begin, length), 1)
            for begin, length in sequences])
        if not len(starts):
            longest = max(length for _, length in sequences)
            raise InputError(f"the footage is too short: a clip has {self.length} frames, and the longest uncut "
                             f"sequence in use has {longest}; choose shorter clips (--train_vi_len), more frames, or a "
                             "larger share of them (--partial, --fast_partial)")
        return starts

    def steps_in_epoch(self, epoch):
        """Number of batches in ``epoch`` (0, 1, ...); clips that do not fill a batch are left out, as in the lab."""
        if self.steps_per_epoch:
            return self.steps_per_epoch
        starts = self._starts[epoch >= self.early_epochs]
        clips = len(starts) if self.order == "tiled" else len(starts) // self.length
        return max(1, clips // self.batch_size)

    def first_step(self, epoch):
        """Number of batches before ``epoch``."""
        early = min(epoch, self.early_epochs)
        return early * self.steps_in_epoch(0) + (epoch - early) * self.steps_in_epoch(self.early_epochs)

    def epoch_of(self, step):
        """The epoch of ``step`` (0, 1, ...)."""
        early_steps = self.first_step(self.early_epochs)
        if step < early_steps:
            return step // self.steps_in_epoch(0)
        return self.early_epochs + (step - early_steps) // self.steps_in_epoch(self.early_epochs)

    def batch(self, step):
        """The batch of ``step``.

        Returns:
            A dict of uint8 arrays: ``"frames"`` and ``"poses"`` (B, T, H, W, 3), ``"context"`` (B, H, W, 3).
        """
        random = np.random.default_rng([self.seed, step])
        start, begin, length = self._choose(step, random).T
        times = start[:, None] + np.arange(self.length)  # (B, T)
        context = begin + random.integers(length) if self.context == "sequence" else start
        frames, poses, context = self.footage.frames[times], self.footage.poses[times], self.footage.frames[context]
        if self.mirror:
            chosen = random.random(self.batch_size) < 0.5
            frames[chosen], context[chosen] = frames[chosen, :, :, ::-1], context[chosen, :, ::-1]
            if self.footage.mirrored_poses is not None:
                poses[chosen] = self.footage.mirrored_poses[times[chosen]]
            else:
                poses[chosen] = mirror.mirrored(poses[chosen], self.footage.palette)
        if self.zoom > 1:
            for clip in np.flatnonzero(random.random(self.batch_size) < ZOOMED):
                frames[clip], poses[clip], context[clip] = zoomed(frames[clip], poses[clip], context[clip], random,
                                                                  self.zoom)
        return {"frames": frames, "poses": poses, "context": context}

    def _choose(self, step, random):
        """A row of `_list_starts` for each clip in the batch of ``step``."""
        epoch = self.epoch_of(step)
        starts = self._starts[epoch >= self.early_epochs]
        if self.order == "tiled":
            first = (step - self.first_step(epoch)) * self.batch_size
            return starts[np.arange(first, first + self.batch_size) % len(starts)]
        return starts[random.integers(len(starts), size=self.batch_size)]

    def names(self, step):
        """A name for each clip in the batch of ``step``: the names of its first and last frames."""
        names = self.footage.names or range(len(self.footage.frames))
        starts = self._choose(step, np.random.default_rng([self.seed, step]))[:, 0]
        return [f"{names[start]} to {getattr(names[start + self.length - 1], 'name', names[start + self.length - 1])}"
                for start in starts]

    def dataset(self, first_step, last_step):
        """A `tf.data.Dataset` of the batches of steps ``first_step`` to ``last_step - 1``, prefetched."""
        import tensorflow as tf  # slow to import, and not needed by the rest of the module

        size = self.footage.frames.shape[1:]
        clip = (self.batch_size, self.length, *size)
        shapes = {"frames": clip, "poses": clip, "context": (self.batch_size, *size)}

        def load(step):
            arrays = tf.numpy_function(lambda step: tuple(self.batch(int(step))[name] for name in shapes), [step],
                                       (tf.uint8,) * 3, stateful=False)
            return {name: tf.ensure_shape(array, shapes[name]) for name, array in zip(shapes, arrays, strict=True)}

        return tf.data.Dataset.range(first_step, last_step).map(load, num_parallel_calls=2).prefetch(2)
