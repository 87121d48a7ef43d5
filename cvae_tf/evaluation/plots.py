"""Line plots in one or more panels, as PNG, PDF and SVG."""

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
    """A curve.

    Attributes:
        label: text in the legend.
        x, y: values, each (N,).
        faint: whether to draw a thin grey background line.
        low, high: edges of a band around the curve, each (N,); None: no band.
    """

    label: str
    x: Any
    y: Any
    faint: bool = False
    low: Any = None
    high: Any = None


def line_figure(panels, xlabel, ylabel, *, log=False, clip=False, size=None):
    """Draw a figure of one or more panels, up to three in a row, with shared axes and one legend.

    Args:
        panels: title of a panel -> list of `Line`. Lines with equal labels have the same colour in all panels.
        xlabel, ylabel: labels of the axes, with the unit in parentheses.
        log: use a logarithmic y axis in panels with any value above 0.
        clip: choose the y axis for the bulk of the values, so that a few extreme ones leave the picture.
        size: width and height in inches, of 110 pixels in a PNG.

    Returns:
        A Matplotlib ``Figure``, made without a display.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = size or (8 if columns == 1 else 3.6 * columns + 0.8, 3.4 * rows)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels):]:
        axes.set_visible(False)
    labels = list(dict.fromkeys(line.label for lines in panels.values() for line in lines if not line.faint))
    for axes, (name, lines) in zip(grid.flat, panels.items(), strict=False):
        for line in lines:
            number = -1 if line.faint else labels.index(line.label)
            colour, dashes = ("0.55", "-") if line.faint else STYLES[number % len(STYLES)]
            width = 0.8 if line.faint else max(1, 2 - 0.4 * number)  # of curves that coincide, each is seen
            axes.plot(line.x, line.y, label=line.label, color=colour, linestyle=dashes, linewidth=width,
                      marker="o" if len(line.x) < 3 else None, markersize=3)
            if line.low is not None:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
        axes.set_title(name, fontsize="medium")
        axes.set_ylabel(ylabel, fontsize="small")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # frames and epochs are integers
        axes.label_outer()
        axes.grid(alpha=0.3)
        if log and any(np.any(np.asarray(line.y) > 0) for line in lines):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(_Plain())
            axes.yaxis.set_minor_formatter(_Plain())
    for axes in grid.flat[:len(panels)][-columns:]:  # the lowest panel of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(xlabel, fontsize="small")
    if clip:
        axes.set_ylim(_bulk([line for lines in panels.values() for line in lines]))
    handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    handles = {label: handles[label] for label in sorted(handles, key=lambda label: label not in labels)}  # faint last
    longest = max(map(len, handles), default=1)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", fontsize="small", frameon=False,
                  ncols=max(1, min(len(handles), int(13 * figure.get_figwidth()) // (longest + 8))))
    return figure


def _bulk(lines):
    """Limits that show 98% of the values of each curve, and the lower half of those of a background line."""
    ends = [np.nanpercentile(line.y, (1, 50) if line.faint else (1, 99)) for line in lines
            if np.any(np.isfinite(line.y))]
    low, high = np.min(ends, initial=np.inf), np.max(ends, initial=-np.inf)
    margin = 0.1 * (high - low) or 1e-3
    return (low - margin, high + margin) if np.isfinite(margin) else None


def psnr_per_frame_png(curves, title="", size=None):
    """Plot PSNR curves (label -> (T,) in dB for frames 1 to T) as PNG bytes; ``copy-first`` is a thin grey line.

    ``size`` is that of `line_figure`.
    """
    lines = [Line(f"{label}, mean {np.mean(values):.2f} dB", range(1, len(values) + 1), values,
                  faint=label == "copy-first") for label, values in curves.items()]
    return png(line_figure({title: lines}, "frame", "PSNR (dB)", clip=True, size=size))


def png(figure):
    """Render a figure as PNG bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Comment": MARK.decode()})
    return stream.getvalue()


def svg(figure):
    """Render a figure as an SVG element for a page: text as text, and black in the colour of the page's text."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "equal figures are equal text"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    element = stream.getvalue()
    return element[element.index("<svg"):].replace("#000000", "currentColor")


def save_figure(figure, stem):
    """Write a figure to ``stem.png`` and ``stem.pdf``.

    Raises:
        InputError: the files cannot be written.
    """
    for suffix in ("png", "pdf"):
        with atomic(f"{stem}.{suffix}") as unfinished:
            figure.savefig(unfinished, format=suffix)
