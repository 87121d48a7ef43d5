"""Write the files of a report: ``report.json``, ``per_frame.csv``, the plots, and ``report.html``, which shows them."""

import base64
import importlib.metadata
import json
import tempfile
from html import escape
from pathlib import Path

import numpy as np

from cvae_tf.data.film import side_by_side, write_gif
from cvae_tf.evaluation import healing, limbs
from cvae_tf.evaluation.plots import Line, line_figure, png
from cvae_tf.evaluation.tables import markdown
from cvae_tf.files import atomic, check_replaceable, write_csv

JSON = "report.json"
PLOTS = {"psnr": "PSNR per frame", "ssim": "SSIM per frame", "person": "PSNR of the person and of the background",
         "sharpness": "Sharpness", "colour_drift": "Colour drift, z from the prior"}
COLUMNS = {  # columns of the main table: key of `summarise` -> title, format
    "psnr": ("PSNR (dB)", "{:.2f}"), "psnr_of_mean_error": ("dB of mean error", "{:.2f}"), "ssim": ("SSIM", "{:.4f}"),
    "psnr_person": ("person (dB)", "{:.2f}"), "psnr_outside": ("outside (dB)", "{:.2f}"),
    "sharpness": ("sharpness", "{:.2f}"), "colour_drift": ("colour drift", "{:.4f}"),
}
EXPLANATION = """PSNR and SSIM: means over frames 1 to T-1, all generated from frame 0, of the value of each frame.
"dB of mean error": PSNR of the mean squared error over all frames. Person: the drawn limbs and a margin around them, in
frames that have a pose; outside: all other pixels. Sharpness: gradient energy of the film over that of the truth; 1 is
as sharp as the truth. Colour drift: mean absolute difference between the mean colours of a generated and of a true
frame, pixels in [0, 1]. The films of rows marked * were made with the true frames that they are compared with: they are
not predictions."""
LIMBS = {  # columns of the table of limbs: key of `limbs.shares` -> title
    "found": "person found (%)", "joints": f"joints within {limbs.TOLERANCE:.0%} of the body height (%)",
    "hands_and_feet": "hands and feet alone (%)",
}
DRIVING = {"key points": "is known for this data", "detector": "is what the detector finds in the true frame, so that "
           "the row truth has no share of joints"}
FAINT = ("copy-first", "copy-first, person", "truth")  # curves drawn as thin grey background lines
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
    """Check that a report can be written to the folder ``out``.

    Raises:
        InputError: the folder holds files that do not belong to a report, or cannot be written.
    """
    written = [JSON, "report.html", "per_frame.csv", *(f"{name}.png" for name in PLOTS)]
    check_replaceable(out, written, "earlier report", "--out")


def versions():
    """A dict from name to version of the packages that affect the measured values."""
    return {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}


def write(out, report, results):
    """Write the report to the folder ``out``, whole or not at all.

    Args:
        out: folder to write; an earlier report there is replaced.
        report: a dict from `summary.report_of`.
        results: the list of `evaluate.SequenceResult` from which ``report`` was made.

    Raises:
        InputError: the folder cannot be written.
    """
    plots = {name: png(figure) for name, figure in figures(results).items()}
    with atomic(out) as unfinished:
        unfinished.mkdir()
        (unfinished / JSON).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        write_csv(unfinished / "per_frame.csv", *_per_frame(results))
        for name, data in plots.items():
            (unfinished / f"{name}.png").write_bytes(data)
        (unfinished / "report.html").write_text(_html(report, plots, results), encoding="utf-8")


def _per_frame(results):
    scalars = ("psnr", "ssim", "psnr_person", "psnr_outside", "psnr_lab", "gradient_energy", "gradient_energy_truth")
    header = ["sequence", "row", "frame", *scalars, "drift_red", "drift_green", "drift_blue", "kl"]
    rows = []
    for one in results:
        for row, series in one.series.items():
            values = np.column_stack([*(series[name] for name in scalars), series["colour_drift"]])
            for t, numbers in enumerate(values):
                kl = f"{one.kl[t]:.6g}" if row == "posterior" else ""
                rows.append([one.name, row, t + 1, *(f"{x:.6g}" if np.isfinite(x) else "" for x in numbers), kl])
    return header, rows


# ---------------------------------------------------------------------- plots

def figures(results):
    """A dict from plot name (a key of `PLOTS`) to a Matplotlib figure with one panel for each sequence."""
    def draw(ylabel, curves):
        panels = {one.name: [Line(label, range(1, 1 + len(values)), values, faint=label in FAINT)
                             for label, values in curves(one.series).items()] for one in results}
        return line_figure(panels, "frame", ylabel, columns=2)

    def quality(measure):
        rows = {"copy-first": "copy_first", "prior": "prior", "prior best": "prior_best", "prior worst": "prior_worst",
                "posterior": "posterior"}
        return lambda series: {label: series[row][measure] for label, row in rows.items() if row in series}

    def person(series):
        return {"copy-first, person": series["copy_first"]["psnr_person"],
                "prior, person": series["prior"]["psnr_person"], "prior, outside": series["prior"]["psnr_outside"],
                "median background, person": series["median_background"]["psnr_person"]}

    def sharpness(series):
        truth = np.maximum(series["prior"]["gradient_energy_truth"], 1e-12)
        return {"truth": np.ones(len(truth)),
                **{row: series[row]["gradient_energy"] / truth for row in ("prior", "posterior")}}

    def drift(series):
        red, green, blue = series["prior"]["colour_drift"].T
        return {"blue": blue, "red": red, "green": green}  # the order matches the line colours

    return {"psnr": draw("PSNR (dB)", quality("psnr")), "ssim": draw("SSIM", quality("ssim")),
            "person": draw("PSNR (dB)", person), "sharpness": draw("gradient energy, film / truth", sharpness),
            "colour_drift": draw("mean colour, film - truth", drift)}


# ---------------------------------------------------------------------- text and HTML

def _cell(value, form="{:.2f}"):
    return "-" if value is None else form.format(value)


def _titles(report):
    return {row: title + (" *" if report["uses_truth"][row] else "") for row, title in report["titles"].items()}


def _main_table(report):
    header = ["", *(title for title, _ in COLUMNS.values())]
    return header, [[title, *(_cell(report["mean"][row][key], form) for key, (_, form) in COLUMNS.items())]
                    for row, title in _titles(report).items()]


def _horizons(report, measure, form, steps=None):
    steps = steps or list(report["mean"]["prior"]["horizons"])
    return ["frames", *steps], [[title, *(_cell(report["mean"][row]["horizons"][h][measure], form) for h in steps)]
                                for row, title in _titles(report).items()]


def _tenths(report):
    count = len(report["mean"]["prior"]["psnr_by_tenths"])
    return ["tenth of the film", *range(1, count + 1)], [
        [title, *(_cell(value, "{:.1f}") for value in report["mean"][row]["psnr_by_tenths"])]
        for row, title in _titles(report).items()]


def _lab(report):
    names = [one["name"] for one in report["sequences"]]
    return ["lab's score (dB)", *names, "public", "private"], [
        [title, *(_cell(value) for value in score["per_sequence"]), _cell(score["public"]), _cell(score["private"])]
        for (row, title), score in zip(_titles(report).items(), report["lab_score"].values(), strict=True)]


def _latent(report):
    header = ["sequence", "KL (nats per frame)", "active latent dimensions", "diversity of samples"]
    return header, [[one["name"], _cell(one["kl_nats_per_frame"], "{:.3g}"),
                     "-" if one["active_latents"] is None else f"{one['active_latents']} of {one['latents']}",
                     _cell(one["diversity"], "{:.3g}")] for one in report["sequences"]]


def _limbs(report):
    found = report["limbs"]
    titles = {row: title + (" *" if uses_truth else "") for row, (title, uses_truth) in limbs.ROWS.items()}
    return ["limbs", *LIMBS.values()], [
        [titles[row], *(_cell(None if values[name] is None else 100 * values[name], "{:.1f}") for name in LIMBS)]
        for row, values in found["rows"].items()]


def _about_limbs(report):
    found, frames = report["limbs"], sum(one["frames"] for one in report["sequences"])
    factor = limbs.enlargement(report["frame"][0])
    enlarged = f" and enlarged {factor} times" if factor > 1 else ""
    return (f"Person found: share of {found['searched_frames']} of {frames} frames, evenly spaced{enlarged}, in which "
            f"the pose detector BlazePose finds a person. In {found['frames_with_person']} of them, the driving pose "
            "has a person in the picture. Joints: share of this person's shoulders, elbows, wrists, hips, knees and "
            f"ankles that the detector finds at most {limbs.TOLERANCE:.0%} of the body height from their place; where "
            "it finds nobody, all are missed. Hands and feet: wrists and ankles. Body height: longer side of the box "
            f"around the driving pose, median over the frames. The driving pose {DRIVING[found['driving_pose']]}. The "
            "row truth is the yardstick, since the detector errs on true frames too.")


def _healing(report):
    found = report["healing"]
    header = ["previous frame", "PSNR lost (dB)", f"frames until within {healing.TOLERANCE} dB"]
    rows = [(title, found["disturbances"][name]) for name, title in healing.DISTURBANCES.items()]
    return header, [[title, _cell(row["lost"]),
                     f"not in {found['measured']}" if row["frames"] is None else row["frames"]] for title, row in rows]


def _about_healing(report):
    places = report["healing"]["starts"]
    return (f"{healing.verdict(report['healing'])} The frame that is fed back was replaced by another picture, at "
            f"{places} place{'s' if places > 1 else ''} in the films of the first sample. PSNR lost: PSNR of the "
            f"undisturbed film minus PSNR of the disturbed film, mean of frames {healing.AFTER + 1} to "
            f"{report['healing']['measured']} after the picture, at the worst place.")


def as_text(report):
    """Format the report as Markdown for a terminal."""
    steps = list(report["mean"]["prior"]["horizons"])
    few = list(dict.fromkeys([steps[i * (len(steps) - 1) // 4] for i in range(5)]))
    parts = [markdown(*_main_table(report)), markdown(*_horizons(report, "psnr", "{:.2f}", few)),
             markdown(*_lab(report)), markdown(*_latent(report)),
             *([report["latent"] + "\n"] if report["latent"] else []),
             *([healing.verdict(report["healing"]) + "\n"] if report["healing"] else []),
             *([markdown(*_limbs(report)) + _about_limbs(report)] if report["limbs"] else []),
             "* made with the true frames that the film is compared with: not a prediction", *report["notes"]]
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


def _html(report, plots, results):
    settings = ", ".join(f"{name} {report[name]}" for name in ("samples", "seed", "temperature"))
    made_with = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    rows = ["lead" if row == "prior" else "truth" if uses else "" for row, uses in report["uses_truth"].items()]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in report["notes"])
    drawn = "".join(f'<h2>{PLOTS[name]}</h2><img alt="{PLOTS[name]}" src="{_embedded(data, "png")}">'
                    for name, data in plots.items())
    seen = ("<h2>Limbs</h2>" + _html_table(*_limbs(report)) + f'<p class="small">{escape(_about_limbs(report))}</p>'
            if report["limbs"] else "")
    healed = ("<h2>Healing</h2>" + _html_table(*_healing(report))
              + f'<p class="small">{escape(_about_healing(report))}</p>' if report["healing"] else "")
    title = escape(f"{Path(report['model']).name} on {Path(report['data_dir']).name}, {report['split']}")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{STYLE}</style></head><body>
<h1>{title}</h1>
<p>{len(results)} sequence{"s" if len(results) > 1 else ""}, \
{sum(len(one.kl) for one in results)} generated frames of {report["frame"][1]}x{report["frame"][0]} pixels. \
Model {escape(report["model"])}; {escape(settings)}. {escape(made_with)}.</p>
{notes}
<h2>Summary</h2>{_html_table(*_main_table(report), rows)}<p class="small">{escape(EXPLANATION)}</p>
<h2>PSNR (dB), mean of the first frames of the film</h2>{_html_table(*_horizons(report, "psnr", "{:.2f}"), rows)}
<h2>SSIM, mean of the first frames of the film</h2>{_html_table(*_horizons(report, "ssim", "{:.3f}"), rows)}
<h2>PSNR (dB) by tenths of the film</h2>{_html_table(*_tenths(report), rows)}
<h2>The lab's score</h2>{_html_table(*_lab(report), rows)}
<p class="small">PSNR (dB) on integers from 0 to 255, mean of frames 1 to 600. Public: mean of the first three
sequences; private: mean of the others.</p>
<h2>The latent</h2>{_html_table(*_latent(report))}
<p class="small">A latent dimension is active if the variance of the posterior's mean over the frames exceeds 0.01.
Diversity: root mean squared difference of two samples, pixels in [0, 1]. {escape(report["latent"])}</p>
{healed}
{seen}
<h2>Films</h2>{"".join(_film(one) for one in results)}
{drawn}
</body></html>
"""
