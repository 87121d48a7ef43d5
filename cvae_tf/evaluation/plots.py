"""Line plots in one or more panels, as PNG and PDF."""

import io
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from cvae_tf.files import MARK, atomic

matplotlib.rcParams["text.parse_math"] = False  # a dollar sign in a folder's name is not a formula

# Okabe and Ito's colours, which colour-blind readers can distinguish; dashes distinguish lines in black and white.
STYLES = tuple(zip(("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"),
                   ("-", "--", "-.", "-", "--", "-.", ":"), strict=True))


class _Plain(LogFormatter):
    """Ticks of a logarithmic axis as plain numbers. Matplotlib would write them as formulas, which are turned off."""

    def __call__(self, x, pos=None):
        return super().__call__(x, pos) and f"{x:g}"


@dataclass(frozen=True)
class Line:
    """A curve: its label in the legend, its x and y values, and whether to draw a thin grey background line."""

    label: str
    x: Any
    y: Any
    faint: bool = False


def line_figure(panels, xlabel, ylabel, *, log=False, columns=3):
    """Draw a figure of one or more panels with shared axes and one legend.

    Args:
        panels: title of a panel -> list of `Line`. Lines with equal labels have the same colour in all panels.
        xlabel, ylabel: labels of the axes, with the unit in parentheses.
        log: use a logarithmic y axis in panels with any value above 0.
        columns: maximum number of panels in a row.

    Returns:
        A Matplotlib ``Figure``, made without a display.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(8 if columns == 1 else 3.6 * columns + 0.8, 3.4 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels):]:
        axes.set_visible(False)
    labels = list(dict.fromkeys(line.label for lines in panels.values() for line in lines if not line.faint))
    for axes, (name, lines) in zip(grid.flat, panels.items(), strict=False):
        for line in lines:
            colour, dashes = STYLES[labels.index(line.label) % len(STYLES)] if not line.faint else ("0.55", "-")
            axes.plot(line.x, line.y, label=line.label, color=colour, linestyle=dashes,
                      linewidth=0.8 if line.faint else 1.4, marker="o" if len(line.x) < 3 else None, markersize=3)
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # frames and epochs are integers
        axes.label_outer()
        axes.grid(alpha=0.3)
        if log and any(np.any(np.asarray(line.y) > 0) for line in lines):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(_Plain())
            axes.yaxis.set_minor_formatter(_Plain())
    handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    handles = {label: handles[label] for label in sorted(handles, key=lambda label: label not in labels)}  # faint last
    longest = max(map(len, handles), default=1)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", fontsize="small",
                  ncols=max(1, min(len(handles), int(13 * figure.get_figwidth()) // (longest + 8))))
    return figure


def psnr_per_frame_png(curves, title=""):
    """Plot PSNR curves (label -> (T,) in dB for frames 1 to T) as PNG bytes; ``copy-first`` is a thin grey line."""
    lines = [Line(f"{label}, mean {np.mean(values):.2f} dB", range(1, len(values) + 1), values,
                  faint=label == "copy-first") for label, values in curves.items()]
    return png(line_figure({title: lines}, "frame", "PSNR (dB)"))


def png(figure):
    """Render a figure as PNG bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Comment": MARK.decode()})
    return stream.getvalue()


def save_figure(figure, stem):
    """Write a figure to ``stem.png`` and ``stem.pdf``.

    Raises:
        InputError: the files cannot be written.
    """
    for suffix in ("png", "pdf"):
        with atomic(f"{stem}.{suffix}") as unfinished:
            figure.savefig(unfinished, format=suffix)
