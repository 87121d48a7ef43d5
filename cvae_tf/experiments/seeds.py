"""Runs that differ in the seed only: groups of them, their mean curves with the range, and a table of their scores."""

import dataclasses
from functools import reduce

import numpy as np

from cvae_tf.config import Config
from cvae_tf.evaluation.plots import Line
from cvae_tf.experiments.grid import effective


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in the seed only; a single run is a group too.

    Attributes:
        runs: tuple of `compare.Run`.
        name: name of the single run, or the number of seeds.
        config: `Config` of the first run. Where a group has several runs, all groups have the same seed in it, so that
            no label names a seed.
    """

    runs: tuple
    name: str
    config: Config

    def scores(self):
        """Two arrays with a value for each validated run: the best and the last PSNR in dB, with z from the prior."""
        prior = [values for run in self.runs if len(values := run.validations("val_psnr_prior")[1])]
        return np.array([max(values) for values in prior]), np.array([values[-1] for values in prior])


def by_seed(runs):
    """Gather runs that differ in the seed only. Runs of equal settings and equal seeds stay apart.

    Returns:
        A list of `Group`, in the order of their first runs.
    """
    alike = {}
    for run in runs:
        alike.setdefault(repr(effective(dataclasses.replace(run.config, seed=0))), []).append(run)
    groups = []
    for some in alike.values():
        groups += [some] if len({run.config.seed for run in some}) == len(some) else [[run] for run in some]
    seed = {} if len(groups) == len(runs) else {"seed": 0}
    return [Group(tuple(some), some[0].name if len(some) == 1 else f"{len(some)} seeds",
                  dataclasses.replace(some[0].config, **seed)) for some in groups]


def over_seeds(lines):
    """Draw groups with a function that draws runs.

    Args:
        lines: function of a run and its label; returns a list of `Line`, empty where the run has no such record.

    Returns:
        The function of a `Group` and its label that returns the lines of a single run, or the means of several with
        their range as a band.
    """
    def drawn(group, label):
        runs = [found for run in group.runs if (found := lines(run, label))]
        return [_band(curves) if len(curves) > 1 else curves[0] for curves in zip(*runs, strict=True)]
    return drawn


def _band(curves):
    x = reduce(np.intersect1d, [line.x for line in curves])  # a run may have stopped earlier than the others
    y = np.array([np.asarray(line.y)[np.isin(line.x, x)] for line in curves])
    return Line(curves[0].label, x, y.mean(axis=0), curves[0].faint, *(() if curves[0].faint else (y.min(0), y.max(0))))


def seeds_table(groups, texts):
    """Header and rows of a table of the validation PSNR in dB (z from the prior) over seeds, one row for each group.

    The columns ``best_*`` are about the highest validation of each run, the columns ``final_*`` about the last. ``n``
    is the number of runs with a validation. ``sd`` is the standard deviation of a sample, with the divisor n - 1, from
    n = 3 on. Cells without a value are empty.

    Args:
        groups: list of `Group`.
        texts: label of each group.
    """
    header = ["settings", "n", *(f"{kind}_{name}" for kind in ("best", "final")
                                 for name in ("mean", "lowest", "highest", "sd"))]
    rows = []
    for group, text in zip(groups, texts, strict=True):
        scores = group.scores()
        cells = [f"{function(values):.2f}" if len(values) >= least else "" for values in scores
                 for function, least in ((np.mean, 1), (np.min, 1), (np.max, 1), (lambda v: np.std(v, ddof=1), 3))]
        rows.append([text, len(scores[0]), *cells])
    return header, rows


def verdict(groups, texts):
    """A sentence on the group with the highest mean of the best validations, and on the next; see `seeds_table`."""
    ranked = sorted(((group.scores()[0], text, group) for group, text in zip(groups, texts, strict=True)
                     if len(group.scores()[0])), key=lambda one: -one[0].mean())[:2]
    if not ranked:
        return "No run has been validated yet."
    found = [f"{text}: {values.mean():.2f} dB PSNR" + (
        f" (mean of {len(values)} seeds, from {values.min():.2f} to {values.max():.2f})" if len(values) > 1 else "")
        for values, text, _ in ranked]
    if len(ranked) == 1:
        return f"Best is {found[0]}."
    (best, *_), (after, *_) = ranked
    copied = [run.validations("val_psnr_copy_first")[1][0] for _, _, group in ranked for run in group.runs[:1]]
    if abs(copied[0] - copied[1]) > 0.01:
        doubt = "they were validated on other clips, so the numbers do not compare"
    elif len(best) == len(after) == 1:
        doubt = "with one seed each, the difference may be chance"
    else:
        doubt = f"the two ranges {'overlap' if after.max() >= best.min() else 'do not overlap'}"
    return f"Best is {found[0]}; next is {found[1]}, {best.mean() - after.mean():.2f} dB lower; {doubt}."
