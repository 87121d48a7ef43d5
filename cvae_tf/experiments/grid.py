"""The grid of a study: its axes, the runs in it, and their names. The default grid is the report's."""

import dataclasses
import itertools
from pathlib import Path

from cvae_tf.config import STUDIO, Config
from cvae_tf.errors import InputError
from cvae_tf.model.schedules import KL_ANNEAL_TYPES

# The report's grid: axis -> name of a cell -> its settings.
REPORT = {"kl_anneal_type": {kind: dict(kl_anneal_type=kind) for kind in KL_ANNEAL_TYPES},
          "tfr": {"1.0-decaying": dict(tfr=1.0), "0.5": dict(tfr=0.5, tfr_d_step=0.0), "0": dict(tfr=0.0)}}
VARIED = ("kl_anneal_type", "tfr", "tfr_d_step")  # settings in which the report's runs differ
CHOSEN = ("run_dir", "export_dir", "max_minutes", "fresh")  # flags of train.py that a study sets itself


def effective(config):
    """The settings that have an effect on the results of a run, by name; others cannot explain a difference."""
    settings = dataclasses.asdict(config)
    idle = ["preset", "run_dir", "export_dir", "max_minutes", "checkpoint_minutes", "val_every"]
    if config.data_dir != STUDIO:
        idle += ["studio_sequences", "studio_seed", "studio_variety", "studio_lamp"]
    if not config.fast_train:
        idle += ["fast_partial", "fast_train_epoch"]
    idle += (["F_dim", "L_dim", "D_out_dim", "batch_norm"] if config.network == "unet" else
             ["width", "narrow_posterior", "limb_planes"])
    if config.kl_anneal_type != "Cyclical":
        idle += ["kl_anneal_cycle"]
    if not config.tfr:
        idle += ["tfr_d_step", "tfr_sde", "tfr_draw"]
    elif not config.tfr_d_step or config.tfr_sde >= config.num_epoch:
        settings["tfr_d_step"] = 0.0
        idle += ["tfr_sde"]
    if config.optim == "Adam":
        idle += ["weight_decay"]
    return {name: value for name, value in settings.items() if name not in idle}


def report_axes(axes):
    """The axes of `REPORT` that hold beside ``axes``: those of which no setting is in ``axes``."""
    return {name: cells for name, cells in REPORT.items()
            if not axes.keys() & {setting for cell in cells.values() for setting in cell}}


def all_values(settings, axes):
    """The values of each setting in a study: name -> list; for an axis of the report, the names of its cells.

    Args:
        settings: setting -> the value that the runs share.
        axes: setting -> its values, as in `runs_of`.
    """
    values = {name: [value] for name, value in settings.items() if name not in CHOSEN}
    for name, cells in report_axes(axes).items():
        for cell in cells.values():
            for setting in cell:
                values.pop(setting, None)
        values[name] = list(cells)
    return values | {name: list(given) for name, given in axes.items()}


def runs_of(config, out, axes):
    """The configurations of the runs in training order: the product of the axes, of which the last varies fastest.

    A setting that has no effect on a run keeps its value of ``config`` there. Cells of the grid that would be the same
    run, such as two numbers of cycles for a schedule without cycles, are one run. A run is named after its schedules,
    and after its values that differ from those of ``config``.

    Args:
        config: `Config` with the settings that the runs share.
        out: folder of the study, which will hold the folders of the runs and of their models.
        axes: setting -> list of its values. These axes come after those of `report_axes`.

    Raises:
        InputError: a value is out of range, is given twice or would change no run, or a setting cannot be an axis.
    """
    _check(axes)
    report = report_axes(axes)
    grid = [list(cells.values()) for cells in report.values()]
    grid += [[{name: value} for value in values] for name, values in axes.items()]
    runs = {}
    for cells in itertools.product(*grid):
        chosen = {name: value for cell in cells for name, value in cell.items()}
        used = effective(dataclasses.replace(config, **chosen))
        run = dataclasses.replace(config, max_minutes=0.0, **{n: value for n, value in chosen.items() if n in used})
        forcing = next((name for name, cell in report.get("tfr", {}).items() if cell in cells), f"{run.tfr:g}")
        name = "-".join([run.kl_anneal_type, f"tfr-{forcing}", *(
            _phrase(name, getattr(run, name)) for name in axes
            if name not in REPORT and getattr(run, name) != getattr(config, name))])
        runs.setdefault(repr(used), dataclasses.replace(run, run_dir=str(Path(out) / "runs" / name),
                                                        export_dir=str(Path(out) / "models" / name)))
    for name, values in axes.items():
        for value in values:
            if all(getattr(run, name) != value for run in runs.values()):
                raise InputError(f"--{name} {value}: changes nothing in any run of this study; leave this value out")
    if len({run.run_dir for run in runs.values()}) < len(runs):
        raise InputError(f"--{' --'.join(axes)}: two runs would have one name; rename the files or folders given")
    return list(runs.values())


def _check(axes):
    settings = {spec.name for spec in dataclasses.fields(Config)} - {*CHOSEN, "preset", "deterministic"}
    for name, values in axes.items():
        if name not in settings or not values:
            raise InputError(f"--{name} cannot be an axis of a study; give one value")
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise InputError(f"--{name}: {twice[0]} is given twice; give each value once")


def _phrase(name, value):
    """How the name of a run shows a setting; of a path, the last part."""
    return f"{'' if value else 'no_'}{name}" if isinstance(value, bool) else f"{name}-{Path(str(value)).name}"
