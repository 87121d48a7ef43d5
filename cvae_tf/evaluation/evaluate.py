"""What an exported model is worth: ``python -m cvae_tf.evaluation.evaluate --model saved_models/NAME --data_dir ROOT|studio ...``.

The films come from the SavedModel alone. To generate, it is given the first true frame, the poses and a seed, and never
a later true frame; those serve to compare, for the baselines, and for the posterior, which has a name of its own. (A
SavedModel that was made to cheat, by remembering footage, is beyond what an evaluation from outside can notice.)
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvae_tf import errors
from cvae_tf.config import STUDIO, normalise_flags, parser_for, studio_of
from cvae_tf.data.film import to_uint8
from cvae_tf.data.images import to_float
from cvae_tf.data.sequences import load_sequences
from cvae_tf.errors import InputError
from cvae_tf.evaluation import metrics, summary
from cvae_tf.inference.predict import Generator, newest_model

ACTIVE_VARIANCE = 0.01  # of a latent's posterior mean over the data, above which it is active (Burda et al., 2016)
CHUNK = 128  # frames measured at a time


@dataclass(frozen=True)
class Evaluated:
    """What was measured on one sequence of T frames.

    Attributes:
        name: of the sequence.
        series: row -> measure -> (T-1,) or, for ``colour_drift``, (T-1, 3): of frames 1 to T-1; see `measure`.
        diversity: root of the mean squared difference of two samples, pixels in [0, 1]: over all pairs of samples, and
            all pixels and frames. None with one sample.
        kl: (T-1,) nats of the posterior against the prior.
        active, latents: how many latent dimensions are active, and how many there are; None where the model was
            exported without its posterior's mean, or one frame cannot tell.
        broken: generated frames that hold something other than finite numbers, of all samples.
        note: of the sequence.
        panels: name -> (T-1, H, W, 3) uint8, films to look at side by side.
    """

    name: str
    series: dict
    diversity: float | None
    kl: np.ndarray
    active: int | None
    latents: int | None
    broken: int
    note: str
    panels: dict


def measure(frames, film, region):
    """Every measure of a film, per frame: name -> (T,), and (T, 3) of ``colour_drift``.

    ``mse``; in dB ``psnr``, ``psnr_person`` and ``psnr_outside`` (in and outside ``region``; NaN where that is empty)
    and ``psnr_lab``; ``ssim``; ``gradient_energy`` of the film and ``gradient_energy_truth``; ``colour_drift`` in
    [-1, 1], and ``colour_distance``, its mean size over channels.

    Args:
        frames, film: (T, H, W, 3) floats in [0, 1], the truth and what is compared with it.
        region: (T, H, W) bool, where the person is.
    """
    if len(frames) > CHUNK:  # the measures keep several copies
        parts = [measure(frames[i:i + CHUNK], film[i:i + CHUNK], region[i:i + CHUNK])
                 for i in range(0, len(frames), CHUNK)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    mse, drift = metrics.mse_per_frame(frames, film), metrics.colour_drift(frames, film)
    return {"mse": mse, "psnr": metrics.decibels(mse), "ssim": metrics.ssim_per_frame(frames, film),
            "psnr_person": metrics.psnr_per_frame(frames, film, region),
            "psnr_outside": metrics.psnr_per_frame(frames, film, ~region),
            "psnr_lab": metrics.lab_psnr_per_frame(frames, film),
            "gradient_energy": metrics.gradient_energy(film),
            "gradient_energy_truth": metrics.gradient_energy(frames),
            "colour_drift": drift, "colour_distance": np.abs(drift).mean(axis=-1)}


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
    spread, series, panels, broken = _Spread(), {}, {"truth": truth, "pose": poses[1:]}, 0
    for k in range(samples):
        film = model(frames[0], poses[1:], seed + k, temperature)
        broken += int(np.sum(~np.isfinite(film).all(axis=(1, 2, 3))))
        spread.add(np.nan_to_num(film))
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
    known = mean is not None and len(mean) > 1
    active, latents = (int(np.sum(np.var(mean, axis=0) > ACTIVE_VARIANCE)), mean[0].size) if known else (None, None)
    return Evaluated(sequence.name, series, spread.distance(), kl, active, latents, broken, sequence.note,
                     {name: to_uint8(film) for name, film in panels.items()})


class _Spread:
    """Root mean squared distance over the pairs of films, from their running sums alone."""

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


# ---------------------------------------------------------------------- command line

def parse_args(argv):
    """Read the command line of ``python -m cvae_tf.evaluation.evaluate``.

    Raises:
        InputError: an unknown flag or a value out of range.
    """
    parser = parser_for("python -m cvae_tf.evaluation.evaluate", "Measure an exported model on whole sequences, free running from "
                        "the first frame, beside baselines; write a report.")
    parser.add_argument("--model", help="folder of a SavedModel [the newest in saved_models/]")
    parser.add_argument("--data_dir", default=STUDIO, help=f"folder in the lab's layout, or '{STUDIO}'")
    parser.add_argument("--split", default="val", help="val, test, or a folder that holds *_img and *_label")
    parser.add_argument("--samples", type=int, default=10, help="films with z from the prior, for each sequence")
    parser.add_argument("--seed", type=int, default=0, help="of the latents; sample k takes seed + k")
    parser.add_argument("--temperature", type=float, default=1.0, help="scale of the latents")
    parser.add_argument("--out", help="folder of the report [reports/MODEL-DATA-SPLIT]")
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
    from cvae_tf.evaluation import report  # loads Matplotlib

    path = Path(args.model) if args.model else newest_model()
    called = (Path(name).absolute().name for name in (path, args.data_dir, args.split))
    out = Path(args.out or Path("reports") / "-".join(called))
    report.check(out)
    model = Generator(path)
    studio = studio_of(path) if args.data_dir == STUDIO else {}
    sequences = load_sequences(args.data_dir, args.split, model.height, model.width, **studio)
    import keras  # loads slowly, as TensorFlow did

    films = keras.utils.Progbar(len(sequences) * (args.samples + 2), unit_name="film")
    evaluated = [evaluate_sequence(model, sequence, args.samples, args.seed, args.temperature,
                                   progress=lambda: films.add(1)) for sequence in sequences]
    settings = {"model": str(path), "data_dir": args.data_dir, "split": args.split, "samples": args.samples,
                "seed": args.seed, "temperature": args.temperature, "frame": [model.height, model.width], **studio,
                "versions": report.versions()}
    result = summary.report_of(evaluated, settings)
    report.write(out, result, evaluated)
    print(report.as_text(result))
    print(f"{out / 'report.html'} opens in a browser; numbers in report.json and per_frame.csv, plots as PNG beside it")
    return result


def main():
    """Command line: ``python -m cvae_tf.evaluation.evaluate``."""
    evaluate(parse_args(sys.argv[1:]))


if __name__ == "__main__":
    errors.run(main)
