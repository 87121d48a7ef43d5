"""Whether two runs of one configuration ended alike: ``python benchmarks/same_results.py RUN OTHER``.

For runs under other versions of TensorFlow and Keras, or on other machines. Compares all numbers of ``metrics.csv`` but
the seconds, and all arrays of the last checkpoint (weights, optimiser, counters), and prints the largest difference of
each, relative to the largest value in its column or array. Exit code 1 above the tolerance. With ``--network lab``,
compare the metrics only: the biases before its BatchNorm have no gradient but rounding noise, which Adam scales up.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from cvae_tf import errors
from cvae_tf.errors import InputError
from cvae_tf.files import read_csv
from cvae_tf.training.checkpoint import CheckpointFolder
from cvae_tf.training.run import RunFolders


def columns(run):
    """Name -> values of the columns of a run's metrics; cells without a number are 0."""
    rows = read_csv(RunFolders(run).metrics)
    return {name: np.array([float(row[name] or 0) for row in rows]) for name in rows[0] if name != "seconds"}


def arrays(run):
    """Name -> array of the numbers in a run's last checkpoint."""
    found = CheckpointFolder(RunFolders(run).checkpoints).load()[1] or {}
    return {name: array for name, array in found.items() if array.dtype.kind != "U"}


def largest_difference(one, other):
    """(largest relative difference, its name) between two dicts of arrays.

    Raises:
        InputError: they do not hold the same names and shapes.
    """
    shapes = [{name: np.shape(value) for name, value in found.items()} for found in (one, other)]
    if shapes[0] != shapes[1]:
        raise InputError("the runs do not have the same columns, epochs, variables or shapes, in the same order")
    return max((float(np.max(np.abs(np.subtract(one[name], other[name], dtype=np.float64)), initial=0)
                      / max(np.max(np.abs(one[name]), initial=0), 1e-30)), name) for name in one)


def main():
    parser = argparse.ArgumentParser(description="Compare the ends of two runs of one configuration.")
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("other", type=Path, help="folder of another")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest relative difference allowed")
    parser.add_argument("--metrics_only", action="store_true", help="leave the checkpoints out")
    args = parser.parse_args()
    runs, worst = (args.run, args.other), 0.0
    compared = {"metrics.csv": [columns(run) for run in runs]}
    if not args.metrics_only:
        compared["checkpoint"] = [arrays(run) for run in runs]
    for what, pair in compared.items():
        difference, name = largest_difference(*pair)
        worst = max(worst, difference)
        print(f"{what}: {len(pair[0])} compared, largest relative difference {difference:.2g} (in {name})")
    sys.exit(worst > args.tolerance)


if __name__ == "__main__":
    errors.run(main)
