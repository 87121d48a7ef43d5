"""Figures."""

import io

import matplotlib

matplotlib.use("Agg")  # files only: works without a display

import matplotlib.pyplot as plt  # noqa: E402


def psnr_per_frame_png(curves, title=""):
    """PNG bytes of PSNR-per-frame curves.

    Args:
        curves: label -> (T,) dB of frames 1 to T. ``copy-first`` is drawn as a thin grey line.
        title: above the figure.
    """
    figure, axes = plt.subplots(figsize=(8, 3.2), dpi=110, layout="constrained")
    for label, values in curves.items():
        style = dict(color="0.6", linewidth=0.8) if label.startswith("copy-first") else dict(linewidth=1.2)
        axes.plot(range(1, len(values) + 1), values, label=f"{label}, mean {sum(values) / len(values):.2f} dB", **style)
    axes.set(xlabel="frame", ylabel="PSNR (dB)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", fontsize="small")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    plt.close(figure)
    return stream.getvalue()
