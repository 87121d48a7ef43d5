"""Runs side by side: ``python -m cvae_tf.experiments.compare RUN [RUN ...] --out DIR``.

From run folders alone, the figures of the report, each as PNG and PDF, and a table of final and best numbers. A
legend names what differs between the runs' configurations. No TensorFlow.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from cvae_tf import errors
from cvae_tf.config import STUDIO, Config, load_config, normalise_flags, parser_for
from cvae_tf.errors import InputError
from cvae_tf.evaluation.plots import Line, line_figure, save_figure
from cvae_tf.evaluation.tables import markdown
from cvae_tf.files import atomic, check_replaceable, read_csv, write_csv
from cvae_tf.training.run import RunFolders

FORCING = ("tfr", "tfr_d_step", "tfr_sde", "tfr_draw")
ANNEALING = ("kl_anneal_type", "kl_anneal_cycle", "kl_anneal_ratio", "kl_anneal_start")
SETTINGS = tuple(dict.fromkeys([*FORCING, *ANNEALING, *(spec.name for spec in dataclasses.fields(Config))]))
FIGURES = ("1_training_loss_by_teacher_forcing", "2_validation_psnr_by_annealing",
           "2_validation_psnr_by_teacher_forcing", "3_training_loss_by_annealing", "4_beta", "5_psnr_per_frame",
           "6_mse", "7_kl", "8_teacher_forcing_ratio")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run folder holds of a run.

    Attributes:
        name: what it is called.
        path: of its folder, absolute.
        config: its configuration.
        epochs: column of ``metrics.csv`` -> (epochs,) floats; NaN where the cell is empty.
        curves: ``prior``, ``posterior`` and ``copy-first`` -> (T,) dB, of the best validation; empty before the first.
    """

    name: str
    path: Path
    config: Config
    epochs: dict
    curves: dict

    def validations(self, column):
        """Epochs, counted from 1, and values of a column that only validated epochs fill."""
        values = self.epochs[column]
        there = ~np.isnan(values)
        return self.epochs["epoch"][there] + 1, values[there]


def load_run(folder):
    """Read a run folder.

    Raises:
        InputError: it is missing, is no run, or no epoch is completed.
    """
    folders = RunFolders(Path(folder))
    if not folders.config.is_file():
        raise InputError(f"{folder}: no config.json in this folder; give the folder of a run, such as runs/demo-1")
    config = load_config(folders.config)
    if not folders.metrics.is_file():
        raise InputError(f"{folder}: no metrics.csv in this folder; let the run complete an epoch first")
    epochs = _columns(folders.metrics, ("epoch", "loss", "mse", "kl", "beta", "tfr", "val_psnr_prior",
                                        "val_psnr_posterior", "val_psnr_copy_first", "seconds"))
    if not np.array_equal(epochs["epoch"], np.arange(len(epochs["epoch"]))):
        raise InputError(f"{folders.metrics}: its epochs do not count 0, 1, 2, ...; is this file whole?")
    curves = {}
    if folders.psnr_per_frame.is_file():
        table = _columns(folders.psnr_per_frame, ("psnr_prior", "psnr_posterior", "psnr_copy_first"))
        curves = {name.removeprefix("psnr_").replace("_", "-"): values for name, values in table.items()}
    path = Path(folder).resolve()
    return Run(path.name, path, config, epochs, curves)


def _columns(path, names):
    rows = read_csv(path)
    if not rows or not set(names) <= rows[0].keys():
        raise InputError(f"{path}: holds no rows with the columns {', '.join(names)}; is this file whole?")
    try:
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: holds something that is no number ({error})") from error


# ---------------------------------------------------------------------- what differs

def _effective(config):
    """The settings that had an effect, so that runs do not seem to differ in those that had none."""
    settings = dataclasses.asdict(config)
    idle = ["preset", "run_dir", "export_dir", "max_minutes", "checkpoint_minutes", "val_every"]
    if config.data_dir != STUDIO:
        idle += ["studio_sequences", "studio_seed", "studio_variety", "studio_lamp"]
    if not config.fast_train:
        idle += ["fast_partial", "fast_train_epoch"]
    idle += ["F_dim", "L_dim", "D_out_dim", "batch_norm"] if config.network == "unet" else ["width", "narrow_posterior"]
    if config.kl_anneal_type != "Cyclical":
        idle += ["kl_anneal_cycle"]
    if not config.tfr:
        idle += ["tfr_d_step", "tfr_sde", "tfr_draw"]
    elif not config.tfr_d_step or config.tfr_sde >= config.num_epoch:
        settings["tfr_d_step"] = 0.0
        idle += ["tfr_sde"]
    if config.optim != "AdamW":
        idle += ["weight_decay"]
    return {name: value for name, value in settings.items() if name not in idle}


def _say(name, value):
    if name in ("kl_anneal_type", "network", "data_dir", "optim"):
        return value
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if name == "tfr_d_step":
        return f"-{value} an epoch" if value else "not decaying"
    return f"{name} {value}"


def labels(runs, names=SETTINGS):
    """What tells each run from the others, as text: those of the settings ``names`` that had different values.

    Returns:
        A list of texts, one a run; equal where none of those settings differs.
    """
    settings = [_effective(run.config) for run in runs]
    differ = [name for name in names if len({repr(one[name]) for one in settings if name in one}) > 1]
    return [", ".join(_say(name, one[name]) for name in differ if name in one) for one in settings]


def _full_labels(runs):
    """`labels` in full, with the run's name where they say nothing or the same of two runs."""
    texts = labels(runs)
    return [text if text and texts.count(text) == 1 else f"{text}, {run.name}".strip(", ")
            for text, run in zip(texts, runs, strict=True)]


def _named_apart(runs):
    """The runs, each called by as many of its folders as tell it from the others."""
    depth = 1
    while len({run.path.parts[-depth:] for run in runs}) < len(runs):
        depth += 1
    return [dataclasses.replace(run, name="/".join(run.path.parts[-depth:])) for run in runs]


def panels_by(factor, runs, lines):
    """Group ``runs`` into panels within which only ``factor`` differs, for curves told apart by it.

    Args:
        factor: names of settings, such as `FORCING`.
        runs: `Run` list.
        lines: function of a run and its label that gives its `Line` list.

    Returns:
        Title of a panel -> lines. A single panel of all runs, labelled in full, where ``factor`` differs in none or
        two runs of a panel differ in nothing.
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
    return lambda run, label: [Line(label, run.epochs["epoch"] + 1, run.epochs[column])]


def _per_validation(run, label):
    prior, copied = (run.validations(f"val_psnr_{name}") for name in ("prior", "copy_first"))
    return [Line(label, *prior)] + ([Line("copy-first", *copied, faint=True)] if len(copied[0]) else [])


def _per_frame(run, label):
    frames = range(1, 1 + len(run.curves.get("prior", ())))
    return [Line(text, frames, run.curves[name], faint)
            for name, text, faint in (("prior", label, False), ("copy-first", "copy-first", True)) if run.curves]


def _schedule(column, factor, runs):
    """One panel of the schedules that differ, each once; of runs with equal settings, the one that got farthest."""
    drawn = {}
    for run, text in zip(runs, labels(runs, (*factor, "num_epoch")), strict=True):
        line = Line(text or column, run.epochs["epoch"] + 1, run.epochs[column])
        if text not in drawn or len(drawn[text].x) < len(line.x):
            drawn[text] = line
    return {"": list(drawn.values())}


def figures(runs):
    """Name, one of `FIGURES` -> Matplotlib figure: the report's five, and MSE, KL and the teacher-forcing ratio.

    Without a completed validation, those that show validations are left out.
    """
    epoch, loss = "epoch", "training loss (MSE + beta x nats)"
    prior = "validation PSNR, z from the prior (dB)"
    made = {
        "1_training_loss_by_teacher_forcing": line_figure(panels_by(FORCING, runs, _per_epoch("loss")), epoch, loss,
                                                          log=True),
        "3_training_loss_by_annealing": line_figure(panels_by(ANNEALING, runs, _per_epoch("loss")), epoch, loss,
                                                    log=True),
        "4_beta": line_figure(_schedule("beta", ANNEALING, runs), epoch, "KL weight beta (1 per nat)"),
        "6_mse": line_figure(panels_by(ANNEALING, runs, _per_epoch("mse")), epoch,
                             "MSE, sum over a clip (pixels in [0, 1])", log=True),
        "7_kl": line_figure(panels_by(ANNEALING, runs, _per_epoch("kl")), epoch, "KL (nats per clip)",
                            log=True),
        "8_teacher_forcing_ratio": line_figure(_schedule("tfr", FORCING, runs), epoch,
                                               "teacher-forcing ratio"),
    }
    if any(len(run.validations("val_psnr_prior")[0]) for run in runs):
        made["2_validation_psnr_by_teacher_forcing"] = line_figure(
            panels_by(FORCING, runs, _per_validation), epoch, prior)
        made["2_validation_psnr_by_annealing"] = line_figure(
            panels_by(ANNEALING, runs, _per_validation), epoch, prior)
    if any(run.curves for run in runs):
        made["5_psnr_per_frame"] = line_figure(panels_by(ANNEALING, runs, _per_frame), "frame", "PSNR (dB)")
    return made


def table(runs):
    """Header and rows of final and best numbers, one row a run; a cell is empty where there is no number.

    ``final_*`` are of the last completed epoch, or the last validated of those, ``best_*`` of the validated epoch,
    counted from 1, with the highest PSNR with z from the prior. PSNR in dB, KL in nats per clip, minutes of training
    and validation.
    """
    header = ["run", "settings", "epochs", "of", "final_loss", "final_mse", "final_kl", "final_psnr_prior",
              "final_psnr_posterior", "best_psnr_prior", "best_epoch", "psnr_copy_first", "minutes"]
    rows = []
    for run, text in zip(runs, _full_labels(runs), strict=True):
        final = [f"{run.epochs[name][-1]:.5g}" for name in ("loss", "mse", "kl")]
        when, prior = run.validations("val_psnr_prior")
        validated = [""] * 5
        if len(prior):
            best = int(np.argmax(prior))
            posterior, copied = (run.validations(f"val_psnr_{name}")[1][-1] for name in ("posterior", "copy_first"))
            validated = [f"{prior[-1]:.2f}", f"{posterior:.2f}", f"{prior[best]:.2f}", int(when[best]), f"{copied:.2f}"]
        rows.append([run.name, text, len(run.epochs["epoch"]), run.config.num_epoch, *final, *validated,
                     f"{np.nansum(run.epochs['seconds']) / 60:.1f}"])
    return header, rows


def compare(folders, out):
    """Write all figures and the table of ``folders`` to the folder ``out``, whole or not at all.

    Raises:
        InputError: a folder is no run, or ``out`` holds something else or cannot be written.
    """
    written = [f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")]
    check_replaceable(out, ["table.csv", "table.md", *written], "earlier comparison", "--out")
    once = {Path(folder).resolve(): folder for folder in folders}.values()
    runs = _named_apart([load_run(folder) for folder in once])
    with atomic(out) as unfinished:
        unfinished.mkdir()
        header, rows = table(runs)
        write_csv(unfinished / "table.csv", header, rows)
        (unfinished / "table.md").write_text(markdown(header, rows), encoding="utf-8")
        for name, figure in figures(runs).items():
            save_figure(figure, unfinished / name)
    print(markdown(header, rows), end="")
    print(f"{out}: figures (PNG, PDF) and a table (CSV, Markdown) of {len(runs)} run{'s' * (len(runs) > 1)}")


def parse_args(argv):
    """Read the command line of ``python -m cvae_tf.experiments.compare``.

    Raises:
        InputError: an unknown or missing flag.
    """
    parser = parser_for("python -m cvae_tf.experiments.compare", "Figures and a table of several training runs.")
    parser.add_argument("runs", nargs="+", help="folders of runs")
    parser.add_argument("--out", required=True, help="folder to write")
    return parser.parse_args(normalise_flags(argv))


def main():
    """Command line: ``python -m cvae_tf.experiments.compare RUN [RUN ...] --out DIR``."""
    args = parse_args(sys.argv[1:])
    compare(args.runs, args.out)


if __name__ == "__main__":
    errors.run(main)
