"""Evaluate an exported model: measure its free-running films of whole sequences, and compare them with baselines.

For generation, the model receives the first true frame, the poses and a seed, never a later true frame. Later true
frames serve three purposes: the comparison, the baselines, and the posterior, which is reported under its own name. (A
SavedModel that cheats by storing footage cannot be detected from outside.)
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from cvae_tf.config import STUDIO, check_ranges, studio_of
from cvae_tf.data.film import to_uint8
from cvae_tf.data.images import to_float
from cvae_tf.data.sequences import load_sequences, split_folder
from cvae_tf.errors import has_cursor
from cvae_tf.evaluation import healing, limbs, metrics, summary
from cvae_tf.files import check_paths

# A latent dimension is active if its posterior mean has a variance over the data above this (Burda et al., 2016).
ACTIVE_VARIANCE = 0.01
CHUNK = 128  # number of frames measured at a time


@dataclass(frozen=True)
class SequenceResult:
    """The measurements of one sequence of T frames.

    Attributes:
        name: name of the sequence.
        series: row of the report -> measure -> values for frames 1 to T-1, as returned by `measure`.
        diversity: root mean squared difference of two samples over all pairs of samples, all frames and all pixels,
            with pixels in [0, 1]. None for one sample.
        kl: (T-1,), KL divergence of the posterior from the prior in nats.
        active: number of active latent dimensions, at most ``latents``. None if T-1 is 1: one frame has no variance.
        latents: number of latent dimensions.
        broken: number of generated frames with values that are not finite, over all samples.
        note: a remark on the sequence for the reader of the report, or an empty string.
        panels: name -> film to show beside the others, (T-1, H, W, 3) uint8.
        limbs: what `limbs.count_limbs` returned; None: the films were not searched for limbs.
        healing: what `healing.measure_healing` returned for the first sample; None: not measured.
    """

    name: str
    series: dict
    diversity: float | None
    kl: np.ndarray
    active: int | None
    latents: int
    broken: int
    note: str
    panels: dict
    limbs: dict | None = None
    healing: dict | None = None


def measure(frames, film, region):
    """Compare a film with the truth, frame by frame.

    Args:
        frames, film: the truth and the film, each (T, H, W, 3) floats in [0, 1].
        region: (T, H, W) bool, True at the pixels of the person.

    Returns:
        A dict from measure to (T,) float64:

        - ``mse``: mean squared error
        - ``psnr``, ``psnr_person`` (in ``region``; NaN if it is empty), ``psnr_outside`` (the other pixels) and
          ``psnr_lab``: in dB
        - ``ssim``: structural similarity
        - ``gradient_energy``, ``gradient_energy_truth``: gradient energy of the film and of the truth
        - ``colour_drift``: (T, 3) in [-1, 1]
        - ``colour_distance``: mean absolute value of ``colour_drift``
    """
    if len(frames) > CHUNK:  # each measure makes several copies of its frames
        parts = [measure(*(x[i:i + CHUNK] for x in (frames, film, region))) for i in range(0, len(frames), CHUNK)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    mse, drift = metrics.mse_per_frame(frames, film), metrics.colour_drift(frames, film)
    return {"mse": mse, "psnr": metrics.decibels(mse), "ssim": metrics.ssim_per_frame(frames, film),
            "psnr_person": metrics.psnr_per_frame(frames, film, region),
            "psnr_outside": metrics.psnr_per_frame(frames, film, ~region),
            "psnr_lab": metrics.lab_psnr_per_frame(frames, film),
            "gradient_energy": metrics.gradient_energy(film),
            "gradient_energy_truth": metrics.gradient_energy(frames),
            "colour_drift": drift, "colour_distance": np.abs(drift).mean(axis=-1)}


def evaluate_sequence(model, sequence, samples=10, seed=0, temperature=1.0, progress=lambda: None, find=None):
    """Measure a model on one sequence.

    Args:
        model: an `ExportedModel`, or any object with its methods ``generate`` and ``reconstruct``. Without a method
            ``continue_film``, healing is not measured.
        sequence: a `Sequence` of T frames.
        samples: number of films with z from the prior; film k, from 0, has the seed ``seed + k``, as in `predict`.
            Memory does not grow with ``samples``.
        seed, temperature: seed of the latents and factor on the deviation of z from the prior's mean.
        progress: function without arguments, called after each of the ``samples + 2`` films, after the measurement of
            healing, and after the search for limbs.
        find: the function that finds a person in a frame, as for `limbs.count_limbs`; None: no search for limbs.

    Returns:
        A `SequenceResult`.
    """
    frames, poses = to_float(sequence.frames), to_float(sequence.poses)
    truth, region = frames[1:], metrics.person_region(poses)[1:]
    shown = "sample 1" if samples > 1 else "prior z"
    distance, series, panels, broken = _PairwiseDistance(), {}, {"truth": truth, "pose": poses[1:]}, 0
    for k in range(samples):
        film = model.generate(frames[0], poses[1:], seed + k, temperature)
        broken += int(np.sum(~np.isfinite(film).all(axis=(1, 2, 3))))
        distance.add(np.nan_to_num(film))
        measured = measure(truth, film, region)
        series["prior"] = {name: series["prior"][name] + (value - series["prior"][name]) / (k + 1)  # the running mean
                           for name, value in measured.items()} if k else measured
        panels.setdefault(shown, film)
        for row, panel, better in (("prior_best", "best sample", np.greater), ("prior_worst", "worst sample", np.less)):
            if samples > 1 and (k == 0 or better(measured["psnr"].mean(), series[row]["psnr"].mean())):
                series[row], panels[panel] = measured, film
        progress()
    series["prior_mode"] = measure(truth, model.generate(frames[0], poses[1:], seed, 0.0), region)
    progress()
    rebuilt, kl, mean = model.reconstruct(frames, poses)
    progress()
    healed = None
    if hasattr(model, "continue_film"):
        healed = healing.measure_healing(model, frames[0], truth, poses[1:], panels[shown], seed, temperature)
        progress()
    others = {"posterior": rebuilt, "copy_first": np.broadcast_to(frames[:1], truth.shape),
              "copy_previous_truth": frames[:-1],
              "median_background": np.broadcast_to(np.median(frames, axis=0), truth.shape)}
    series |= {name: measure(truth, film, region) for name, film in others.items()}
    panels["posterior z"] = rebuilt
    active = int(np.sum(np.var(mean, axis=0) > ACTIVE_VARIANCE)) if len(mean) > 1 else None
    panels, found = {name: to_uint8(film) for name, film in panels.items()}, None
    if find is not None:
        films = {"truth": panels["truth"], "prior": panels[shown], "posterior": panels["posterior z"],
                 "copy_first": np.broadcast_to(sequence.frames[:1], panels["truth"].shape)}
        found = limbs.count_limbs(find, films, sequence.key_points and sequence.key_points[1:])
        progress()
    return SequenceResult(sequence.name, series, distance.root_mean_square(), kl, active, mean[0].size, broken,
                          sequence.note, panels, found, healed)


class _PairwiseDistance:
    """Root mean squared difference over all pairs of films, computed from running sums."""

    def __init__(self):
        self.count = 0

    def add(self, film):
        if not self.count:
            self.first, self.sum, self.squares = film, np.zeros(film.shape), 0.0
        difference = np.asarray(film, np.float64) - self.first  # exactly 0 for equal films
        self.sum += difference
        self.squares += np.mean(np.square(difference))
        self.count += 1

    def root_mean_square(self):
        """The root of the mean square over pairs, frames and pixels; None for fewer than two films."""
        if self.count < 2:
            return None
        # sum over pairs (a - b)^2 = n sum a^2 - (sum a)^2
        total = self.count * self.squares - np.mean(np.square(self.sum))
        return float(np.sqrt(max(0.0, total) / (self.count * (self.count - 1) / 2)))


def evaluate(model, data_dir: str | Path = STUDIO, split: str | Path = "val", *, samples: int = 10, seed: int = 0,
             temperature: float = 1.0, out: str | Path | None = None, pose_detector: bool | None = None) -> dict:
    """Measure a model on whole sequences, free-running from the first frame; print a table and write a report.

    Args:
        model: an `ExportedModel`.
        data_dir: folder in the lab's layout, or ``"studio"``: the studio variant that the model was trained on.
        split: ``"val"``, ``"test"``, or a folder that holds ``*_img`` and ``*_label``.
        samples: number of films with z from the prior for each sequence, from 1 to 100,000.
        seed: seed of the latents, from 0; sample k, counted from 0, takes ``seed + k``.
        temperature: factor on the deviation of z from the prior's mean, from 0 to 100.
        out: folder of the report; None: ``reports/MODEL-DATA-SPLIT``. An earlier report there is replaced.
        pose_detector: whether to search the films for limbs with a pose detector (see `limbs`), which takes about a
            tenth of a second for each searched frame; None: if the package ai-edge-litert is installed.

    Returns:
        The report as a dict, equal to ``report.json``.

    Raises:
        InputError: a value is out of range, the data or the pose detector cannot be read, or the report cannot be
            written.
    """
    from cvae_tf.evaluation import report  # imports Matplotlib

    check_ranges(dict(samples=(1, 100_000), seed=(0, 2**31 - samples), temperature=(0, 100)),
                 samples=samples, seed=seed, temperature=temperature)
    names = [Path(name).absolute().name for name in (model.path, data_dir, split)]
    out = Path(out or Path("reports") / "-".join(names))
    place = None if data_dir == STUDIO else split_folder(data_dir, split)
    check_paths({"--model": model.path, "--data_dir": place and data_dir, "--split": place}, {"--out": out})
    report.check(out)
    studio = studio_of(model.path) if data_dir == STUDIO else {}
    sequences = load_sequences(data_dir, split, model.height, model.width, **studio)
    find = limbs.open_detector() if (limbs.is_installed() if pose_detector is None else pose_detector) else None
    steps = samples + 2 + hasattr(model, "continue_film") + (find is not None)
    with Progress(disable=not has_cursor()) as bar:
        films = bar.add_task("Films", total=len(sequences) * steps)
        results = [evaluate_sequence(model, sequence, samples, seed, temperature, lambda: bar.advance(films), find)
                   for sequence in sequences]
    settings = {"model": str(model.path), "data_dir": str(data_dir), "split": str(split), "samples": samples,
                "seed": seed, "temperature": temperature, "frame": [model.height, model.width], **studio,
                "versions": report.versions()}
    made = summary.report_of(results, settings)
    report.write(out, made, results)
    print(report.as_text(made))
    print(f"{out / 'report.html'} opens in a browser; numbers in report.json and per_frame.csv, plots as PNG beside it")
    return made
