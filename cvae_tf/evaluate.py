"""What an exported model is worth: ``python -m cvae_tf.evaluate --model saved_models/NAME --data_dir ROOT|studio ...``.

The films come from the SavedModel alone. To generate, it is given the first true frame, the poses and a seed, and never
a later true frame; those serve to compare, for the baselines, and for the posterior, which has a name of its own. (A
SavedModel that was made to cheat, by remembering footage, is beyond what an evaluation from outside can notice.)
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvae_tf import errors, metrics
from cvae_tf.config import STUDIO, load_config, normalise_flags, parser_for
from cvae_tf.data import to_float
from cvae_tf.errors import InputError
from cvae_tf.prediction import Generator, newest_model
from cvae_tf.sequences import load_sequences
from cvae_tf.video import to_uint8

ROWS = {  # what is compared with the truth: its title, and whether it has seen the truth that it is compared with
    "prior": ("prior z, mean of the samples", False),
    "prior_best": ("prior z, best sample (chosen by the truth)", True),
    "prior_worst": ("prior z, worst sample (chosen by the truth)", True),
    "prior_mode": ("z = 0", False),
    "posterior": ("posterior z (encoder sees the target)", True),
    "copy_first": ("copy-first (baseline)", False),
    "copy_previous_truth": ("copy-previous-truth (one-step oracle)", True),
    "median_background": ("median background of the truth (baseline)", True),
}
ACTIVE_VARIANCE = 0.01  # of a latent's posterior mean over the data, above which it is active (Burda et al., 2016)
COLLAPSED = 0.01  # nats per frame, below which the latent tells nothing
LAB_FRAMES = 600  # the lab scores frames 1 to 600 of each sequence ...
LAB_PUBLIC = 3  # ... and calls the mean of the first three sequences public, that of the others private


@dataclass(frozen=True)
class Evaluated:
    """What was measured on one sequence of T frames.

    Attributes:
        name: of the sequence.
        series: row -> measure -> (T-1,) or, for ``colour_drift``, (T-1, 3): of frames 1 to T-1; see `measure`.
        diversity: root of the mean squared pixel difference between two samples, pixels in [0, 1]: over all pairs and
            frames. None with one sample.
        kl: (T-1,) nats of the posterior against the prior.
        active, latents: how many latent dimensions are active, and how many there are; None where the model was
            exported without its posterior's mean.
        panels: name -> (T-1, H, W, 3) uint8, films to look at side by side.
    """

    name: str
    series: dict
    diversity: float | None
    kl: np.ndarray
    active: int | None
    latents: int | None
    panels: dict


def measure(frames, film, region):
    """Every measure of a film, per frame: name -> (T,), and (T, 3) of ``colour_drift``.

    ``mse``; in dB ``psnr``, ``psnr_person`` and ``psnr_outside`` (in and outside ``region``; NaN where that is empty)
    and ``psnr_lab``; ``ssim``; ``gradient_energy`` of the film and ``gradient_energy_truth``; ``colour_drift`` in
    [-1, 1].

    Args:
        frames, film: (T, H, W, 3) floats in [0, 1], the truth and what is compared with it.
        region: (T, H, W) bool, where the person is.
    """
    mse = metrics.mse_per_frame(frames, film)
    return {"mse": mse, "psnr": metrics.decibels(mse), "ssim": metrics.ssim_per_frame(frames, film),
            "psnr_person": metrics.psnr_per_frame(frames, film, region),
            "psnr_outside": metrics.psnr_per_frame(frames, film, ~region),
            "psnr_lab": metrics.lab_psnr_per_frame(frames, film),
            "gradient_energy": metrics.gradient_energy(film),
            "gradient_energy_truth": metrics.gradient_energy(frames),
            "colour_drift": metrics.colour_drift(frames, film)}


def evaluate_sequence(model, sequence, samples=10, seed=0, temperature=1.0, progress=lambda: None):
    """Measure a model on one sequence.

    Args:
        model: a `Generator`.
        sequence: a `Sequence` of T frames.
        samples: films with z from the prior; film k is that of ``predict.py --seed SEED+K``. One is held at a time, so
            memory does not grow with their number.
        seed, temperature: of the latents.
        progress: called after each film.

    Returns:
        `Evaluated`.
    """
    frames, poses = to_float(sequence.frames), to_float(sequence.poses)
    truth, region = frames[1:], metrics.person_region(poses)[1:]
    spread, series, panels = _Spread(), {}, {"truth": truth, "pose": poses[1:]}
    for k in range(samples):
        film = model(frames[0], poses[1:], seed + k, temperature)
        spread.add(film)
        measured = measure(truth, film, region)
        series["prior"] = {name: series["prior"][name] + (value - series["prior"][name]) / (k + 1)  # the running mean
                           for name, value in measured.items()} if k else measured
        panels.setdefault("sample 1" if samples > 1 else "prior z", film)
        for row, panel, better in (("prior_best", "best sample", np.greater), ("prior_worst", "worst sample", np.less)):
            if samples > 1 and (k == 0 or better(measured["psnr"].mean(), series[row]["psnr"].mean())):
                series[row], panels[panel] = measured, film
        progress()
    series["prior_mode"] = measure(truth, model(frames[0], poses[1:], seed, 0.0), region)
    progress()
    rebuilt, kl, mean = model.reconstruct(frames, poses)
    progress()
    others = {"posterior": rebuilt, "copy_first": np.broadcast_to(frames[:1], truth.shape),
              "copy_previous_truth": frames[:-1],
              "median_background": np.broadcast_to(np.median(frames, axis=0), truth.shape)}
    series |= {name: measure(truth, film, region) for name, film in others.items()}
    panels["posterior z"] = rebuilt
    active = None if mean is None else int(np.sum(np.var(mean, axis=0) > ACTIVE_VARIANCE))
    return Evaluated(sequence.name, series, spread.distance(), kl, active, None if mean is None else mean[0].size,
                     {name: to_uint8(film) for name, film in panels.items()})


class _Spread:
    """Mean distance of the pairs of films, from their running sums alone."""

    def __init__(self):
        self.count = 0

    def add(self, film):
        if not self.count:
            self.first, self.sum, self.squares = film, np.zeros(film.shape), 0.0
        difference = np.asarray(film, np.float64) - self.first  # exactly 0 for equal films
        self.sum += difference
        self.squares += np.mean(np.square(difference))
        self.count += 1

    def distance(self):
        """Root of the mean over pairs and pixels of the squared difference; None of fewer than two films."""
        if self.count < 2:
            return None
        # sum over pairs (a - b)^2 = n sum a^2 - (sum a)^2
        total = self.count * self.squares - np.mean(np.square(self.sum))
        return float(np.sqrt(max(0.0, total) / (self.count * (self.count - 1) / 2)))


# ---------------------------------------------------------------------- summaries

def summarise(series):
    """The numbers of one row on one sequence, from what `measure` gave.

    ``psnr``, ``ssim``, ``psnr_person``, ``psnr_outside``: means over frames (of the dB); ``psnr_of_mean_error``: dB of
    the mean error, which the worst frames rule; ``horizons``: means over frames 1 to h; ``psnr_by_tenths`` of the
    rollout; ``sharpness``: gradient energy of the film over that of the truth; ``colour_drift``: mean absolute, in
    [0, 1]; ``lab_score``: mean PSNR of frames 1 to 600 on 0..255.
    """
    psnr = series["psnr"]
    steps = [*range(50, len(psnr), 50), len(psnr)]
    truth_energy = series["gradient_energy_truth"].sum()
    return {
        "psnr": float(psnr.mean()), "psnr_of_mean_error": float(metrics.decibels(series["mse"].mean())),
        "ssim": float(series["ssim"].mean()),
        "psnr_person": _mean(series["psnr_person"]), "psnr_outside": _mean(series["psnr_outside"]),
        "sharpness": float(series["gradient_energy"].sum() / truth_energy) if truth_energy else None,
        "colour_drift": float(np.abs(series["colour_drift"]).mean()),
        "lab_score": float(series["psnr_lab"][:LAB_FRAMES].mean()),
        "psnr_by_tenths": [float(part.mean()) for part in np.array_split(psnr, 10) if len(part)],
        "horizons": {f"1-{h}": {"psnr": float(psnr[:h].mean()), "ssim": float(series["ssim"][:h].mean())}
                     for h in steps},
    }


def _mean(values):
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None


def mean_over_sequences(summaries):
    """The mean of a list of `summarise` results, number by number; None where a sequence has none."""
    first = summaries[0]
    if isinstance(first, dict):
        shared = [name for name in first if all(name in other for other in summaries)]
        return {name: mean_over_sequences([one[name] for one in summaries]) for name in shared}
    if isinstance(first, list):
        return [mean_over_sequences(list(values)) for values in zip(*summaries, strict=False)]
    values = [value for value in summaries if value is not None]
    return float(np.mean(values)) if len(values) == len(summaries) else None


def report_of(evaluated, settings):
    """The report of all sequences as a dict for JSON; ``settings`` come first."""
    rows = [row for row in ROWS if row in evaluated[0].series]
    summaries = {one.name: {row: summarise(one.series[row]) for row in rows} for one in evaluated}
    sequences = []
    for one in evaluated:
        sequences.append({"name": one.name, "frames": len(one.kl), "diversity": one.diversity,
                          "kl_nats_per_frame": float(one.kl.mean()), "active_latents": one.active,
                          "latents": one.latents, "rows": summaries[one.name]})
    mean = {row: mean_over_sequences([summaries[one.name][row] for one in evaluated]) for row in rows}
    scores = {row: [summaries[one.name][row]["lab_score"] for one in evaluated] for row in rows}
    lab = {row: {"per_sequence": values, "public": float(np.mean(values[:LAB_PUBLIC])),
                 "private": float(np.mean(values[LAB_PUBLIC:])) if values[LAB_PUBLIC:] else None}
           for row, values in scores.items()}
    rate = float(np.mean([one.kl.mean() for one in evaluated]))
    notes = []
    if rate < COLLAPSED:
        notes.append(f"The latent has collapsed: {rate:.2g} nats per frame. The posterior is the prior, and z tells "
                     "nothing about a frame.")
    short = [one.name for one in evaluated if len(one.kl) < LAB_FRAMES]
    if short:
        notes.append(f"The lab scores frames 1 to {LAB_FRAMES}; shorter, and scored on what there is: "
                     f"{', '.join(short)}.")
    titles, uses_truth = ({row: ROWS[row][i] for row in rows} for i in (0, 1))
    return {**settings, "titles": titles, "uses_truth": uses_truth, "kl_nats_per_frame": rate, "notes": notes,
            "mean": mean, "lab_score": lab, "sequences": sequences}


# ---------------------------------------------------------------------- command line

def parse_args(argv):
    """Read the command line of ``python -m cvae_tf.evaluate``.

    Raises:
        InputError: an unknown flag or a value out of range.
    """
    parser = parser_for("python -m cvae_tf.evaluate", "Measure an exported model on whole sequences, free running from "
                        "the first frame, beside baselines; write a report.")
    parser.add_argument("--model", help="folder of a SavedModel [the newest in saved_models/]")
    parser.add_argument("--data_dir", default=STUDIO, help=f"folder in the lab's layout, or '{STUDIO}'")
    parser.add_argument("--split", default="val", help="val, test, or a folder that holds *_img and *_label")
    parser.add_argument("--samples", type=int, default=10, help="films with z from the prior, for each sequence")
    parser.add_argument("--seed", type=int, default=0, help="of the latents; sample k takes seed + k")
    parser.add_argument("--temperature", type=float, default=1.0, help="scale of the latents")
    parser.add_argument("--out", help="folder of the report [reports/MODEL-SPLIT]")
    args = parser.parse_args(normalise_flags(argv))
    for name, low, high in (("samples", 1, 100_000), ("seed", 0, 2**31 - 1), ("temperature", 0, 100)):
        if not low <= getattr(args, name) <= high:
            raise InputError(f"--{name} must be from {low} to {high}, received {getattr(args, name)}")
    if args.seed + args.samples > 2**31:
        raise InputError(f"--seed plus --samples must be at most {2**31}, received {args.seed} and {args.samples}")
    return args


def evaluate(args):
    """Evaluate a model as ``args`` say, print the table and write the report.

    Returns:
        The report, as in ``report.json``.

    Raises:
        InputError: the model, the data or the output folder cannot be used.
    """
    from cvae_tf import report  # loads Matplotlib

    path = Path(args.model) if args.model else newest_model()
    out = Path(args.out or Path("reports") / f"{path.absolute().name}-{Path(args.split).name}")
    report.check(out)
    model = Generator(path)
    trained = load_config(path / "config.json") if (path / "config.json").is_file() else None
    studio = dict(studio_seed=trained.studio_seed, studio_variety=trained.studio_variety) if trained else {}
    sequences = load_sequences(args.data_dir, args.split, model.height, model.width, **studio)
    import keras  # loads slowly, as TensorFlow did

    films = keras.utils.Progbar(len(sequences) * (args.samples + 2), unit_name="film")
    evaluated = [evaluate_sequence(model, sequence, args.samples, args.seed, args.temperature,
                                   progress=lambda: films.add(1)) for sequence in sequences]
    settings = {"model": str(path), "data_dir": args.data_dir, "split": args.split, "samples": args.samples,
                "seed": args.seed, "temperature": args.temperature, "frame": [model.height, model.width],
                "versions": report.versions()}
    result = report_of(evaluated, settings)
    report.write(out, result, evaluated)
    print(report.as_text(result))
    print(f"{out / 'report.html'} opens in a browser; numbers in report.json and per_frame.csv, plots as PNG beside it")
    return result


def main():
    """Command line: ``python -m cvae_tf.evaluate``."""
    evaluate(parse_args(sys.argv[1:]))


if __name__ == "__main__":
    errors.run(main)
