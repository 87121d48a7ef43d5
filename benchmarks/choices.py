"""What a model draws where no pose tells: ``python benchmarks/choices.py --model DIR [--samples 20] [--split test]``.

For models trained with ``--studio_lamp``. The same footage is drawn with the lamp red, green and blue throughout; in
each generated frame in which the lamp is lit, the pixels that differ between the three say which colour is nearest, or
whether the mean of the three is nearer ("between"). The studio draws a new colour each time the hand comes forward and
keeps it for that time; the columns tell whether the films do too:

- the share of the three colours, and of what lies between, in frames with the lamp lit;
- stays: of frames that follow each other within one time that the lamp is lit, those between left out, how many have
  the same colour; throughout: in how many of those times all of them have;
- alike: of pairs of samples, in how many frames both have the same colour or both lie between (by chance, with equal
  shares of the three: 33 %); right: in how many frames it is the truth's.
"""

import argparse
import itertools
import sys
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cvae_tf.config import STUDIO, studio_of  # noqa: E402
from cvae_tf.data.images import to_float  # noqa: E402
from cvae_tf.data.sequences import load_sequences  # noqa: E402
from cvae_tf.evaluation.tables import markdown  # noqa: E402
from cvae_tf.inference.exported_model import ExportedModel  # noqa: E402
from cvae_tf.studio import scene as studio  # noqa: E402

DIFFERS = 0.1  # in pixels from 0 to 1: where two colours of the lamp can be told apart
ENOUGH = 8  # such pixels, for a frame in which the lamp counts as lit
BETWEEN = len(studio.LAMPS)


def in_each_colour(number, height, width, **options):
    """The studio's sequence with one colour of the lamp throughout, each in turn: (3, T, H, W, 3) in [0, 1]."""
    films = []
    for colour in studio.LAMPS:
        with mock.patch.object(studio, "LAMPS", (colour,) * len(studio.LAMPS)):
            films.append(studio.sequence(number, height, width, lamp=True, **options)[0])
    return to_float(np.stack(films))


def chosen(film, painted):
    """The colour of each frame.

    Args:
        film: (T, H, W, 3) in [0, 1].
        painted: (3, T, H, W, 3) in [0, 1], what it would be in each colour.

    Returns:
        (T,) int: the number of the nearest colour, `BETWEEN` where their mean is nearer, -1 where none is lit.
    """
    differs = np.ptp(painted, axis=0).max(-1) > DIFFERS  # (T, H, W)
    candidates = np.concatenate([painted, painted.mean(0, keepdims=True)])
    errors = (np.square(candidates - film).sum(-1) * differs).sum((-2, -1))
    return np.where(differs.sum((1, 2)) < ENOUGH, -1, np.argmin(errors, axis=0))


def shares(films, truth):
    """The columns of the table, in percent, from the colours (T,) of each film and of the truth."""
    lit = truth >= 0
    turns = [turn for turn in np.split(np.arange(len(truth)), np.flatnonzero(lit[1:] != lit[:-1]) + 1) if lit[turn[0]]]
    coloured = [film[turn][film[turn] < BETWEEN] for film in films for turn in turns]
    pairs = [turn[1:] == turn[:-1] for turn in coloured]
    films = np.stack(films)
    alike = [a[lit] == b[lit] for a, b in itertools.combinations(films, 2)]
    columns = [films[:, lit] == colour for colour in range(BETWEEN + 1)]
    columns += [np.concatenate(pairs), [pair.all() for pair in pairs if len(pair)], alike, films[:, lit] == truth[lit]]
    return [100 * np.mean(column) if len(column) else np.nan for column in columns]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--split", default="val", help="val or test")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=1.0)
    args = parser.parse_args()
    options = studio_of(args.model)
    if not options["studio_lamp"]:
        sys.exit(f"{args.model}: not trained with --studio_lamp")
    model = ExportedModel(args.model)
    rows = []
    for sequence in load_sequences(STUDIO, args.split, model.height, model.width, **options):
        number = int(sequence.name.split()[-1])
        painted = in_each_colour(number, model.height, model.width, seed=options["studio_seed"],
                                 variety=options["studio_variety"])[:, 1:]
        frames, poses = to_float(sequence.frames), to_float(sequence.poses)
        truth = chosen(frames[1:], painted)
        samples = [model.generate(frames[0], poses[1:], seed, args.temperature) for seed in range(args.samples)]
        films = {"truth": [frames[1:]], f"{args.samples} samples": samples,
                 "posterior": [model.reconstruct(frames, poses)[0]]}
        for name, made in films.items():
            of_films = shares([chosen(film, painted) for film in made], truth)
            rows.append([sequence.name, name, *(f"{share:.0f}" for share in of_films)])
    print(markdown(["sequence", "film", "red, %", "green, %", "blue, %", "between, %", "stays, %", "throughout, %",
                    "alike, %", "right, %"], rows))


if __name__ == "__main__":
    main()
