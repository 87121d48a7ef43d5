"""An evaluation on paper: ``report.json``, ``per_frame.csv``, plots, and a ``report.html`` that holds everything."""

import base64
import importlib.metadata
import json
import tempfile
from html import escape
from pathlib import Path

import numpy as np

from cvae_tf.data.film import side_by_side, write_gif
from cvae_tf.evaluation.plots import Line, line_figure, png
from cvae_tf.evaluation.tables import markdown
from cvae_tf.files import atomic, check_replaceable, write_csv

JSON = "report.json"
PLOTS = {"psnr": "PSNR per frame", "ssim": "SSIM per frame", "person": "The person and the rest",
         "sharpness": "Sharpness", "colour_drift": "Colour drift, prior z"}
COLUMNS = {  # of the main table: key in the summary -> title, format
    "psnr": ("PSNR (dB)", "{:.2f}"), "psnr_of_mean_error": ("dB of mean error", "{:.2f}"), "ssim": ("SSIM", "{:.4f}"),
    "psnr_person": ("person (dB)", "{:.2f}"), "psnr_outside": ("outside (dB)", "{:.2f}"),
    "sharpness": ("sharpness", "{:.2f}"), "colour_drift": ("colour drift", "{:.4f}"),
}
EXPLANATION = """PSNR and SSIM are means over frames 1 to T-1 of the value of each frame, all generated from frame 0
alone. "dB of mean error" is the PSNR of the mean squared error instead. Person: the drawn limbs
and a margin around them, in frames that have a pose; outside: the rest. Sharpness: gradient energy over the truth's, 1
is as sharp as the truth. Colour drift: mean absolute difference of a frame's mean colour from the truth's, pixels in
[0, 1]. Rows marked * have used the true frames that they are compared with: they are no predictions."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th { white-space: nowrap; }
th, td { padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid #d9dee5; }
th:first-child, td:first-child { text-align: left; }
tr.lead td { font-weight: 600; background: #eef4fb; } tr.truth td { color: #6a7380; }
.wide { overflow-x: auto; } .note { background: #fff4d6; padding: 0.6rem 1rem; border-left: 4px solid #e0a400; }
img { max-width: 100%; } img.film { width: 100%; image-rendering: pixelated; }
.small { color: #5a6470; font-size: 0.9rem; }
.names { display: flex; font-size: 0.85rem; color: #5a6470; } .names span { flex: 1; text-align: center; }
"""


def check(out):
    """Refuse an ``out`` that holds something other than an earlier report.

    Raises:
        InputError: it does.
    """
    written = [JSON, "report.html", "per_frame.csv", *(f"{name}.png" for name in PLOTS)]
    check_replaceable(out, written, "earlier report", "--out")


def versions():
    """Name -> version of what the numbers depend on."""
    return {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}


def write(out, result, evaluated):
    """Write the report to the folder ``out``, whole or not at all.

    Args:
        out: folder; an earlier report there is replaced.
        result: `evaluate.report_of`'s.
        evaluated: list of `evaluate.Evaluated`.

    Raises:
        InputError: it cannot be written.
    """
    plots = {name: png(figure) for name, figure in figures(result, evaluated).items()}
    with atomic(out) as unfinished:
        unfinished.mkdir()
        (unfinished / JSON).write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        write_csv(unfinished / "per_frame.csv", *_per_frame(evaluated))
        for name, data in plots.items():
            (unfinished / f"{name}.png").write_bytes(data)
        (unfinished / "report.html").write_text(_html(result, plots, evaluated), encoding="utf-8")


def _per_frame(evaluated):
    scalars = ("psnr", "ssim", "psnr_person", "psnr_outside", "psnr_lab", "gradient_energy", "gradient_energy_truth")
    header = ["sequence", "row", "frame", *scalars, "drift_red", "drift_green", "drift_blue", "kl"]
    rows = []
    for one in evaluated:
        for row, series in one.series.items():
            values = np.column_stack([*(series[name] for name in scalars), series["colour_drift"]])
            for t, numbers in enumerate(values):
                kl = f"{one.kl[t]:.6g}" if row == "posterior" else ""
                rows.append([one.name, row, t + 1, *(f"{x:.6g}" if np.isfinite(x) else "" for x in numbers), kl])
    return header, rows


# ---------------------------------------------------------------------- plots

def figures(result, evaluated):
    """Name, one of `PLOTS` -> Matplotlib figure, each with a panel a sequence."""
    def draw(lines, ylabel):
        panels = {one.name: [line for line in lines(one.series) if line is not None] for one in evaluated}
        return line_figure(panels, "frame", ylabel, columns=2)

    def line(series, row, measure, label=None, faint=False):
        if row in series:
            values = series[row][measure]
            return Line(label or row.replace("_", " "), range(1, 1 + len(values)), values, faint)

    def quality(measure):
        return lambda series: [line(series, "copy_first", measure, "copy-first", faint=True),
                               line(series, "prior", measure), line(series, "prior_best", measure),
                               line(series, "prior_worst", measure), line(series, "posterior", measure)]

    def person(series):
        return [line(series, "copy_first", "psnr_person", "copy-first, person", faint=True),
                *(line(series, "prior", f"psnr_{where}", f"prior, {where}") for where in ("person", "outside")),
                line(series, "median_background", "psnr_person", "median background, person")]

    def sharpness(series):
        frames = range(1, 1 + len(series["prior"]["psnr"]))
        truth = np.maximum(series["prior"]["gradient_energy_truth"], 1e-12)
        return [Line("truth", frames, np.ones(len(truth)), faint=True),
                *(Line(row, frames, series[row]["gradient_energy"] / truth) for row in ("prior", "posterior"))]

    def drift(series):
        values = series["prior"]["colour_drift"]
        return [Line(name, range(1, 1 + len(values)), values[:, i])
                for name, i in (("blue", 2), ("red", 0), ("green", 1))]

    return {"psnr": draw(quality("psnr"), "PSNR (dB)"), "ssim": draw(quality("ssim"), "SSIM"),
            "person": draw(person, "PSNR (dB)"), "sharpness": draw(sharpness, "gradient energy over the truth's"),
            "colour_drift": draw(drift, "mean colour less the truth's")}


# ---------------------------------------------------------------------- text and HTML

def _cell(value, form="{:.2f}"):
    return "-" if value is None else form.format(value)


def _titles(result):
    return {row: title + (" *" if result["uses_truth"][row] else "") for row, title in result["titles"].items()}


def _main_table(result):
    header = ["", *(title for title, _ in COLUMNS.values())]
    return header, [[title, *(_cell(result["mean"][row][key], form) for key, (_, form) in COLUMNS.items())]
                    for row, title in _titles(result).items()]


def _horizons(result, measure, form, steps=None):
    steps = steps or list(result["mean"]["prior"]["horizons"])
    return ["frames", *steps], [[title, *(_cell(result["mean"][row]["horizons"][h][measure], form) for h in steps)]
                                for row, title in _titles(result).items()]


def _tenths(result):
    count = len(result["mean"]["prior"]["psnr_by_tenths"])
    return ["tenth of the rollout", *range(1, count + 1)], [
        [title, *(_cell(value, "{:.1f}") for value in result["mean"][row]["psnr_by_tenths"])]
        for row, title in _titles(result).items()]


def _lab(result):
    names = [one["name"] for one in result["sequences"]]
    return ["lab's score (dB)", *names, "public", "private"], [
        [title, *(_cell(value) for value in score["per_sequence"]), _cell(score["public"]), _cell(score["private"])]
        for (row, title), score in zip(_titles(result).items(), result["lab_score"].values(), strict=True)]


def _latent(result):
    header = ["latent", "KL (nats per frame)", "active dimensions", "diversity of samples"]
    return header, [[one["name"], _cell(one["kl_nats_per_frame"], "{:.3g}"),
                     "-" if one["active_latents"] is None else f"{one['active_latents']} of {one['latents']}",
                     _cell(one["diversity"], "{:.3g}")] for one in result["sequences"]]


def as_text(result):
    """The report for a terminal, in Markdown."""
    steps = list(result["mean"]["prior"]["horizons"])
    few = list(dict.fromkeys([steps[i * (len(steps) - 1) // 4] for i in range(5)]))
    parts = [markdown(*_main_table(result)), markdown(*_horizons(result, "psnr", "{:.2f}", few)),
             markdown(*_lab(result)), markdown(*_latent(result)),
             "* has used the true frames that it is compared with: no prediction", *result["notes"]]
    return "\n".join(parts)


def _html_table(header, rows, keys=None):
    def cells(tag, values):
        return "".join(f"<{tag}>{escape(str(value))}</{tag}>" for value in values)

    body = "".join(f'<tr class="{key}">{cells("td", row)}</tr>'
                   for key, row in zip(keys or [""] * len(rows), rows, strict=True))
    return f'<div class="wide"><table><thead><tr>{cells("th", header)}</tr></thead><tbody>{body}</tbody></table></div>'


def _embedded(data, kind):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _film(one):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.gif"
        write_gif(path, side_by_side(*one.panels.values()))
        data = path.read_bytes()
    names = "".join(f"<span>{escape(name)}</span>" for name in one.panels)
    return (f'<h3>{escape(one.name)}</h3><div class="names">{names}</div>'
            f'<img class="film" alt="{escape(", ".join(one.panels))}" src="{_embedded(data, "gif")}">')


def _html(result, plots, evaluated):
    settings = ", ".join(f"{name} {result[name]}" for name in ("samples", "seed", "temperature"))
    made_with = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    rows = ["lead" if row == "prior" else "truth" if uses else "" for row, uses in result["uses_truth"].items()]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in result["notes"])
    drawn = "".join(f'<h2>{PLOTS[name]}</h2><img alt="{PLOTS[name]}" src="{_embedded(data, "png")}">'
                    for name, data in plots.items())
    title = escape(f"{Path(result['model']).name} on {Path(result['data_dir']).name}, {result['split']}")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{STYLE}</style></head><body>
<h1>{title}</h1>
<p>{len(evaluated)} sequence{"s" if len(evaluated) > 1 else ""}, \
{sum(len(one.kl) for one in evaluated)} generated frames of {result["frame"][1]}x{result["frame"][0]} pixels. \
Model {escape(result["model"])}; {escape(settings)}. {escape(made_with)}.</p>
{notes}
<h2>Summary</h2>{_html_table(*_main_table(result), rows)}<p class="small">{escape(EXPLANATION)}</p>
<h2>PSNR (dB), mean of the first frames</h2>{_html_table(*_horizons(result, "psnr", "{:.2f}"), rows)}
<h2>SSIM, mean of the first frames</h2>{_html_table(*_horizons(result, "ssim", "{:.3f}"), rows)}
<h2>PSNR (dB) by tenths of the rollout</h2>{_html_table(*_tenths(result), rows)}
<h2>The lab's score</h2>{_html_table(*_lab(result), rows)}
<p class="small">PSNR on integers from 0 to 255, frames 1 to 600; public is the mean of the first three sequences,
private that of the others.</p>
<h2>The latent</h2>{_html_table(*_latent(result))}
<p class="small">Active: the variance of the posterior's mean over the frames exceeds 0.01. Diversity: root of the mean
squared difference of two samples, pixels in [0, 1].</p>
<h2>Films</h2>{"".join(_film(one) for one in evaluated)}
{drawn}
</body></html>
"""
