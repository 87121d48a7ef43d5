"""Compare training runs: figures, and tables of final and best scores, made only from the folders of the runs.

Legends show only the settings in which the runs differ. Runs that differ in the seed only are a group: the figures show
its mean and its range. This module does not import TensorFlow.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cvae_tf.config import Config, load_config
from cvae_tf.errors import InputError, printable
from cvae_tf.evaluation import page
from cvae_tf.evaluation.plots import Line, line_figure, save_figure
from cvae_tf.evaluation.tables import markdown
from cvae_tf.experiments.grid import effective
from cvae_tf.experiments.seeds import by_seed, over_seeds, seeds_table, verdict
from cvae_tf.files import atomic, check_paths, check_replaceable, read_csv, write_csv
from cvae_tf.training.run import RunFolders

FORCING = ("tfr", "tfr_d_step", "tfr_sde", "tfr_draw")
ANNEALING = ("kl_anneal_type", "kl_anneal_cycle", "kl_anneal_ratio", "kl_anneal_start")
SETTINGS = tuple(dict.fromkeys([*FORCING, *ANNEALING, *(spec.name for spec in dataclasses.fields(Config))]))


@dataclasses.dataclass(frozen=True)
class Run:
    """The records of a run, read from its folder.

    Attributes:
        name: name of the run, unique within a comparison.
        path: absolute path of the run's folder.
        config: the `Config` of the run.
        epochs: column of ``metrics.csv`` -> floats, one per epoch; NaN for an empty cell.
        stopped: the final validation of a run stopped by ``--max_minutes``: column of ``stopped.csv`` -> (1,) floats.
            Empty for other runs.
        curves: ``prior``, ``posterior`` and ``copy-first`` -> (T,) PSNR in dB per frame of the best validation; empty
            before the first validation.
    """

    name: str
    path: Path
    config: Config
    epochs: dict
    stopped: dict
    curves: dict

    def validations(self, column):
        """Two arrays: epochs done at each validation (maybe fractional at the last), and the values of ``column``."""
        values = self.epochs[column]
        filled = ~np.isnan(values)
        return (np.append(self.epochs["epoch"][filled] + 1, self.stopped.get("epochs", [])),
                np.append(values[filled], self.stopped.get(column, [])))


def load_run(folder):
    """Read the folder of a run, and return a `Run`.

    Raises:
        InputError: the folder is missing, is not the folder of a run, or holds neither metrics nor a checkpoint.
    """
    folders = RunFolders(Path(folder))
    if not folders.config.is_file():
        raise InputError(f"{folder}: no config.json in this folder; give the folder of a run, such as runs/demo-1")
    config = load_config(folders.config)
    validated = ("val_psnr_prior", "val_psnr_posterior", "val_psnr_copy_first")
    columns = ("epoch", "loss", "mse", "kl", "beta", "tfr", *validated, "seconds")
    if folders.metrics.is_file():
        epochs = _columns(folders.metrics, columns)
    elif any(folders.checkpoints.glob("step_*.npz")):  # stopped within its first epoch
        epochs = dict.fromkeys(columns, np.zeros(0))
    else:
        raise InputError(f"{folder}: no metrics.csv and no checkpoint in this folder; let the run begin first")
    stopped = _columns(folders.stopped, ("epochs", *validated)) if folders.stopped.is_file() else {}
    if not np.array_equal(epochs["epoch"], np.arange(len(epochs["epoch"]))):
        raise InputError(f"{folders.metrics}: the column epoch must be 0, 1, 2, ...; is this file complete?")
    curves = {}
    if folders.psnr_per_frame.is_file():
        table = _columns(folders.psnr_per_frame, ("psnr_prior", "psnr_posterior", "psnr_copy_first"))
        curves = {name.removeprefix("psnr_").replace("_", "-"): values for name, values in table.items()}
    path = Path(folder).resolve()
    return Run(printable(path.name), path, config, epochs, stopped, curves)


def _columns(path, names):
    rows = read_csv(path)
    if not rows or not set(names) <= rows[0].keys():
        raise InputError(f"{path}: holds no rows with the columns {', '.join(names)}; is this file complete?")
    try:
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
    except Exception as error:
        raise InputError(f"{path}: a cell must hold a number or nothing ({error})") from error


def planned_run(config, beta, teacher_forcing):
    """The `Run` of ``config`` before its training: only its schedules, the arguments of `EpochSchedules`."""
    epochs = np.arange(config.num_epoch)
    columns = {"epoch": epochs, "beta": np.array(beta), "tfr": np.array([teacher_forcing(epoch) for epoch in epochs])}
    return Run(Path(config.run_dir).name, Path(config.run_dir), config, columns, {}, {})


# ---------------------------------------------------------------------- differences between runs

def _phrase(name, value):
    if name in ("kl_anneal_type", "network", "data_dir", "optim"):
        return value
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if name == "tfr_d_step":
        return f"-{value} an epoch" if value else "not decaying"
    return f"{name} {value}"


def labels(runs, names=SETTINGS):
    """Label each run with its values of the settings in ``names`` in which the runs differ.

    Returns:
        A list of texts, in the order of ``runs``; runs that do not differ have equal texts.
    """
    settings = [effective(run.config) for run in runs]
    differ = [name for name in names if len({repr(one[name]) for one in settings if name in one}) > 1]
    return [", ".join(_phrase(name, one[name]) for name in differ if name in one) for one in settings]


def _full_labels(runs):
    """`labels` by all settings, with the name of the run added if a label is empty or not unique."""
    texts = labels(runs)
    return [text if text and texts.count(text) == 1 else f"{text}, {run.name}".strip(", ")
            for text, run in zip(texts, runs, strict=True)]


def _named_apart(runs):
    """The runs, renamed with as many parent folders as make the names unique."""
    depth = 1
    while len({run.path.parts[-depth:] for run in runs}) < len(runs):
        depth += 1
    return [dataclasses.replace(run, name="/".join(run.path.parts[-depth:])) for run in runs]


def panels_by(factor, runs, lines):
    """Group lines into panels whose runs differ only in the settings ``factor``, which label the lines.

    Args:
        factor: names of settings, such as `FORCING`.
        runs: list of `Run`.
        lines: function that takes a run and its label, and returns a list of `Line`.

    Returns:
        A dict from panel title to lines. If ``factor`` does not separate the runs in this way, there is a single panel
        with all runs, labelled by all settings in which they differ.
    """
    groups = {}
    for run, text, title in zip(runs, labels(runs, factor), labels(runs, [s for s in SETTINGS if s not in factor]),
                                strict=True):
        groups.setdefault(title, []).append((run, text))
    alike = any(len({text for _, text in group}) < len(group) for group in groups.values())
    if alike or not any(len(group) > 1 for group in groups.values()):
        groups = {"": list(zip(runs, _full_labels(runs), strict=True))}
    return {title: [line for run, text in group for line in lines(run, text)] for title, group in groups.items()}


# ---------------------------------------------------------------------- figures and table

def _per_epoch(column):
    return lambda run, label: ([Line(label, run.epochs["epoch"] + 1, run.epochs[column])]
                               if len(run.epochs["epoch"]) else [])


def _per_validation(run, label):
    prior, copied = (run.validations(f"val_psnr_{name}") for name in ("prior", "copy_first"))
    return [Line(label, *prior), Line("copy-first", *copied, faint=True)] if len(prior[0]) else []


def _per_frame(run, label):
    frames = range(1, 1 + len(run.curves.get("prior", ())))
    return [Line(text, frames, run.curves[name], faint)
            for name, text, faint in (("prior", label, False), ("copy-first", "copy-first", True)) if run.curves]


def _figure(panels, xlabel, ylabel, log):
    figure = line_figure(panels, xlabel, ylabel, log=log, clip=xlabel == "frame")
    if any(line.low is not None for lines in panels.values() for line in lines):
        figure.suptitle("line: mean over seeds; band: from the lowest to the highest", fontsize="small")
    return figure


def _schedule(column, factor, runs):
    """One panel that shows each schedule of ``column`` once; among equal settings, the longest run is shown."""
    drawn = {}
    runs = [run for run in runs if len(run.epochs["epoch"])]
    for run, text in zip(runs, labels(runs, (*factor, "num_epoch")), strict=True):
        line = Line(text or column, run.epochs["epoch"] + 1, run.epochs[column])
        if text not in drawn or len(drawn[text].x) < len(line.x):
            drawn[text] = line
    return {"": list(drawn.values())} if drawn else {}


_LOSS, _PRIOR = "training loss\n(MSE + gdl x GD + beta x nats)", "validation PSNR (dB)"
_CURVES = {  # figure -> label settings, function for the curves of a run, axis labels, logarithmic y
    "1_training_loss_by_teacher_forcing": (FORCING, _per_epoch("loss"), "epoch", _LOSS, True),
    "2_validation_psnr_by_annealing": (ANNEALING, _per_validation, "epoch", _PRIOR, False),
    "2_validation_psnr_by_teacher_forcing": (FORCING, _per_validation, "epoch", _PRIOR, False),
    "3_training_loss_by_annealing": (ANNEALING, _per_epoch("loss"), "epoch", _LOSS, True),
    "5_psnr_per_frame": (ANNEALING, _per_frame, "frame", "PSNR (dB)", False),
    "6_mse": (ANNEALING, _per_epoch("mse"), "epoch", "MSE, sum over a clip\n(pixels in [0, 1])", True),
    "7_kl": (ANNEALING, _per_epoch("kl"), "epoch", "KL (nats per clip)", True),
}
_SCHEDULES = {  # figure -> settings that label its curves, column of ``metrics.csv``, axis label
    "4_beta": (ANNEALING, "beta", "KL weight beta (1 per nat)"),
    "8_teacher_forcing_ratio": (FORCING, "tfr", "teacher-forcing ratio"),
}
ABOUT = """PSNR in dB of the validation clip, with z from the prior, higher is better. best: the highest validation of a
run; final: the last. copy_first: the first frame repeated. sd: standard deviation over seeds."""
FIGURES = (*_CURVES, *_SCHEDULES)


def schedule_figures(runs):
    """The part of `figures` that shows the schedules of beta and of teacher forcing."""
    panels = {name: (_schedule(column, factor, runs), label) for name, (factor, column, label) in _SCHEDULES.items()}
    return {name: line_figure(lines, "epoch", label) for name, (lines, label) in panels.items() if lines}


def figures(runs):
    """A dict from name (one of `FIGURES`) to Matplotlib figure. Figures without a line are left out."""
    groups = by_seed(runs)
    panels = {name: (panels_by(factor, groups, over_seeds(lines)), *axes)
              for name, (factor, lines, *axes) in _CURVES.items()}
    return {name: _figure(lines, *axes) for name, (lines, *axes) in panels.items() if any(lines.values())
            } | schedule_figures(runs)


def table(runs):
    """Header and rows of a table of final and best scores, with one row for each run.

    The columns ``final_*`` refer to the last completed epoch or the last validation. The columns ``best_*`` refer to
    the validation with the highest PSNR (z from the prior). The validation at a stop by ``--max_minutes`` is
    included. Epochs count from 1; PSNR is in dB and KL in nats per clip. ``minutes`` is the time for training and
    validation. Cells without a value are empty.
    """
    header = ["run", "settings", "epochs", "of", "final_loss", "final_mse", "final_kl", "final_psnr_prior",
              "final_psnr_posterior", "best_psnr_prior", "best_epoch", "psnr_copy_first", "minutes"]
    rows = []
    for run, text in zip(runs, _full_labels(runs), strict=True):
        final = [f"{value:.5g}" for name in ("loss", "mse", "kl") for value in run.epochs[name][-1:]] or [""] * 3
        when, prior = run.validations("val_psnr_prior")
        validated = [""] * 5
        if len(prior):
            best = int(np.argmax(prior))
            posterior, copied = (run.validations(f"val_psnr_{name}")[1][-1] for name in ("posterior", "copy_first"))
            validated = [f"{prior[-1]:.2f}", f"{posterior:.2f}", f"{prior[best]:.2f}", f"{when[best]:.4g}",
                         f"{copied:.2f}"]
        rows.append([run.name, text, len(run.epochs["epoch"]), run.config.num_epoch, *final, *validated,
                     f"{np.nansum(run.epochs['seconds']) / 60:.1f}"])
    return header, rows


def compare(runs: Iterable[str | Path], out: str | Path) -> None:
    """Compare training runs: write ``report.html``, figures and tables, and print the tables.

    The figures are PNG and PDF files, the tables CSV and Markdown. The table of seeds is written if runs differ in the
    seed only.

    Args:
        runs: folders of runs.
        out: folder to write, whole or not at all. An earlier comparison there is replaced.

    Raises:
        InputError: a folder is not the folder of a run, or ``out`` holds other files or cannot be written.
    """
    check_paths({"RUN": [Path(run) for run in runs]}, {"--out": out})
    written = [f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")]
    check_replaceable(out, ["table.csv", "table.md", "seeds.csv", "seeds.md", "report.html", *written],
                      "earlier comparison", "--out")
    once = {Path(folder).resolve(): folder for folder in runs}.values()
    runs = _named_apart([load_run(folder) for folder in once])
    groups = by_seed(runs)
    texts = _full_labels(groups)
    tables, sentence = {"table": table(runs)}, verdict(groups, texts)
    if len(groups) < len(runs):
        tables["seeds"] = seeds_table(groups, texts)
    with atomic(out) as unfinished:
        unfinished.mkdir()
        for name, (header, rows) in tables.items():
            write_csv(unfinished / f"{name}.csv", header, rows)
            (unfinished / f"{name}.md").write_text(markdown(header, rows), encoding="utf-8")
        made = figures(runs)
        for name, figure in made.items():
            save_figure(figure, unfinished / name)
        (unfinished / "report.html").write_text(_html(sentence, tables, made), encoding="utf-8")
    print("\n".join(markdown(*one) for one in tables.values()), end="")
    print(printable(sentence))
    print(f"{Path(out) / 'report.html'} opens in a browser; figures (PNG, PDF) and tables (CSV, Markdown) beside it")


def _html(sentence, tables, made):
    """The page: the verdict, the main table with the best row first, the figures, and all numbers folded."""
    name, best, names = "table", "best_psnr_prior", ("settings", "run", "best_psnr_prior", "psnr_copy_first", "minutes")
    if "seeds" in tables:
        name, best, names = "seeds", "best_mean", ("settings", "n", "best_mean", "best_lowest", "best_highest")
    rows = [dict(zip(tables[name][0], row, strict=True)) for row in tables[name][1]]
    rows.sort(key=lambda row: -float(row[best] or "-inf"))
    drawn = {block["svg"]: block for block in (page.figure(figure, name) for name, figure in made.items())}  # each once
    blocks = [page.text(sentence, "verdict"),
              page.table(names, [[row[name] for name in names] for row in rows], rows[0]["settings"]),
              page.text(ABOUT, "small"), *drawn.values()]
    return page.render(f"Comparison of {len(tables['table'][1])} runs", blocks, {
        f"All numbers: {name}.csv": [page.table(*one)] for name, one in tables.items()})
