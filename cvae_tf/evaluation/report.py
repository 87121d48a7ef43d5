"""Write the files of a report: ``report.json``, ``per_frame.csv``, the plots, and ``report.html``, which shows them."""

import importlib.metadata
import json
from pathlib import Path

import numpy as np

from cvae_tf.evaluation import healing, limbs, page
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
MATTER = {"prior": "model", "posterior": "model, with posterior z *", "copy_first": "copy-first"}  # rows to show first
EXPLANATION = """PSNR and SSIM: means over frames 1 to T-1, all generated from frame 0, of the value of each frame.
"dB of mean error": PSNR of the mean squared error over all frames. Person: the drawn limbs and a margin around them, in
frames that have a pose; outside: all other pixels. Sharpness: gradient energy of the film over that of the truth; 1 is
as sharp as the truth. Colour drift: mean absolute difference between the mean colours of a generated and of a true
frame, pixels in [0, 1]. The films of rows marked * were made with the true frames that they are compared with: they are
not predictions."""
FOOTNOTE = """Model: mean of the samples, with z from the prior. *: an encoder sees the true frames. Copy-first: the
first frame repeated. PSNR and SSIM: higher is better. Sharpness: 1 is as sharp as the truth."""
ABOUT_LAB = """PSNR (dB) on integers from 0 to 255, mean of frames 1 to 600. Public: mean of the first three sequences;
private: mean of the others. Shorter sequences are scored on all of their frames, without these means."""
ABOUT_LATENT = """A latent dimension is active if the variance of the posterior's mean over the frames exceeds 0.01.
Diversity: root mean squared difference of two samples, pixels in [0, 1]."""
LIMBS = {  # columns of the table of limbs: key of `limbs.shares` -> title
    "found": "person found (%)", "joints": f"joints within {limbs.TOLERANCE:.0%} of the body height (%)",
    "hands_and_feet": "hands and feet alone (%)",
}
DRIVING = {"key points": "is known for this data", "detector": "is what the detector finds in the true frame, so that "
           "the row truth has no share of joints"}
FAINT = ("copy-first", "copy-first, person", "truth")  # curves drawn as thin grey background lines


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
    drawn = figures(results)
    with atomic(out) as unfinished:
        unfinished.mkdir()
        (unfinished / JSON).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        write_csv(unfinished / "per_frame.csv", *_per_frame(results))
        for name, figure in drawn.items():
            (unfinished / f"{name}.png").write_bytes(png(figure))
        (unfinished / "report.html").write_text(_html(report, drawn, results), encoding="utf-8")


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
        panels = {}
        for one in results:
            drawn = {label: np.atleast_2d(values) for label, values in curves(one.series).items()}  # maybe with a band
            panels[one.name] = [Line(label, range(1, 1 + len(values)), values, label in FAINT, *band)
                                for label, (values, *band) in drawn.items()]
        return line_figure(panels, "frame", ylabel, clip=True)

    def quality(measure):
        return lambda series: {
            "prior": [series[row][measure] for row in ("prior", "prior_worst", "prior_best") if row in series],
            "posterior": series["posterior"][measure], "copy-first": series["copy_first"][measure]}

    def person(series):
        return {"prior, person": series["prior"]["psnr_person"], "prior, outside": series["prior"]["psnr_outside"],
                "median background, person": series["median_background"]["psnr_person"],
                "copy-first, person": series["copy_first"]["psnr_person"]}

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


def _main_table(report, titles=None, columns=tuple(COLUMNS)):
    header = ["", *(COLUMNS[key][0] for key in columns)]
    return header, [[title, *(_cell(report["mean"][row][key], COLUMNS[key][1]) for key in columns)]
                    for row, title in (titles or _titles(report)).items() if row in report["mean"]]


def _horizons(report, measure, form):
    steps = list(report["mean"]["prior"]["horizons"])
    few = dict.fromkeys(steps[i * (len(steps) - 1) // 5] for i in range(6))
    return ["frames", *few], [[title, *(_cell(report["mean"][row]["horizons"][h][measure], form) for h in few)]
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
    parts = [report["verdict"] + "\n", markdown(*_main_table(report)), markdown(*_horizons(report, "psnr", "{:.2f}")),
             *([markdown(*_lab(report))] if report["lab_score"] else []), markdown(*_latent(report)),
             *([report["latent"] + "\n"] if report["latent"] else []),
             *([healing.verdict(report["healing"]) + "\n"] if report["healing"] else []),
             *([markdown(*_limbs(report)) + _about_limbs(report)] if report["limbs"] else []),
             "* made with the true frames that the film is compared with: not a prediction", *report["notes"]]
    return "\n".join(parts)


def _html(report, drawn, results):
    settings = {name: report[name] for name in ("model", "data_dir", "split", "samples", "seed", "temperature")}
    settings |= {"frame": "{1}x{0} pixels".format(*report["frame"])} | report["versions"]
    films = [page.film(dict(zip(("truth", "pose", "prediction"), one.panels.values(), strict=False)),
                       f"sequence {one.name}") for one in results]
    films += [page.film(dict(list(one.panels.items())[3:]), f"sequence {one.name}") for one in results]
    blocks = [films[0], page.text(report["verdict"], "verdict"), *map(page.text, report["notes"]),
              page.table(*_main_table(report, MATTER, ("psnr", "ssim", "psnr_person", "sharpness")), MATTER["prior"]),
              page.text(FOOTNOTE, "small")]
    sections = {
        "Quality of each frame": [page.figure(drawn[name], title) for name, title in PLOTS.items()],
        "All rows and measures": [page.table(*_main_table(report)), page.text(EXPLANATION, "small")],
        "Quality by the length of the film": [
            page.text("PSNR (dB), mean of the first frames"), page.table(*_horizons(report, "psnr", "{:.2f}")),
            page.text("SSIM, mean of the first frames"), page.table(*_horizons(report, "ssim", "{:.3f}"))],
        "The lab's score": report["lab_score"] and [page.table(*_lab(report)), page.text(ABOUT_LAB, "small")],
        "The latent": [page.table(*_latent(report)), page.text(f"{ABOUT_LATENT} {report['latent']}", "small")],
        "Healing": report["healing"] and [page.table(*_healing(report)), page.text(_about_healing(report), "small")],
        "Limbs": report["limbs"] and [page.table(*_limbs(report)), page.text(_about_limbs(report), "small")],
        "Other films": films[1:],
        "How this report was made": [page.table(["setting", "value"], settings.items())],
    }
    title = f"Model {Path(report['model']).name} on {Path(report['data_dir']).name}, {report['split']}"
    return page.render(title, blocks, {heading: more for heading, more in sections.items() if more})
