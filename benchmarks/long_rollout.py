"""One film of many sequences' poses: ``python benchmarks/long_rollout.py [--model DIR] [--data_dir DIR] [--split S]``.

The poses of ``--sequences`` sequences, in turn and again from the first where there are fewer, are generated in one
rollout from the first frame of the first. Each is scored beside a film of its own poses alone, from the same first
frame: where the long film is not worse, it is the poses that are hard, not the age of the rollout. Exit code 1 where a
pixel is not finite.
"""

import argparse
import resource
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cvae_tf.config import STUDIO, studio_of  # noqa: E402
from cvae_tf.data.images import to_float  # noqa: E402
from cvae_tf.data.sequences import load_sequences  # noqa: E402
from cvae_tf.evaluation.metrics import psnr_per_frame  # noqa: E402
from cvae_tf.evaluation.tables import markdown  # noqa: E402
from cvae_tf.inference.exported_model import ExportedModel  # noqa: E402
from cvae_tf.inference.predict import PART  # noqa: E402


def megabytes():
    """The highest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def long_film(model, first_frame, poses, seed):
    """Generate all of ``poses`` (T, H, W, 3) in one rollout, in parts: (T, H, W, 3)."""
    extend = model.film(first_frame, seed=seed)
    return np.concatenate([extend(poses[start:start + PART]) for start in range(0, len(poses), PART)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="saved_models/studio")
    parser.add_argument("--data_dir", default=STUDIO)
    parser.add_argument("--split", default="test", help="val, test or a folder, as for the command evaluate")
    parser.add_argument("--sequences", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = ExportedModel(args.model)
    found = load_sequences(args.data_dir, args.split, model.height, model.width, **studio_of(args.model))
    turns = [found[k % len(found)] for k in range(args.sequences)]
    frames, poses = (np.concatenate([to_float(getattr(turn, kind)) for turn in turns])
                     for kind in ("frames", "poses"))
    alone = {turn.name: psnr_per_frame(to_float(turn.frames)[1:],
                                       long_film(model, frames[0], to_float(turn.poses)[1:], args.seed))
             for turn in found}
    before = megabytes()
    film = long_film(model, frames[0], poses[1:], args.seed)
    scores = np.split(psnr_per_frame(frames[1:], film), np.cumsum([len(turn.poses) for turn in turns])[:-1] - 1)
    rows = [[turn.name, f"{score[-len(alone[turn.name]):].mean():.2f}", f"{alone[turn.name].mean():.2f}"]
            for turn, score in zip(turns, scores, strict=True)]
    print(markdown(["sequence", "in the long film, dB", "alone, dB"], rows))
    finite = np.isfinite(film).all()
    print(f"\n{len(film)} frames, {'all' if finite else 'NOT all'} finite; memory {before:.0f} MB before, "
          f"{megabytes():.0f} MB at its highest (all frames and poses are held to be scored)")
    return 0 if finite else 1


if __name__ == "__main__":
    sys.exit(main())
