"""The numbers of a report: means over frames and sequences, the lab's score, and notes for the reader."""

from pathlib import Path

import numpy as np

from cvae_tf.config import STUDIO
from cvae_tf.evaluation import healing, limbs, metrics

ROWS = {  # row -> its title, and whether its film was made from the true frames to predict
    "prior": ("prior z, mean of the samples", False),
    "prior_best": ("prior z, best sample (chosen by the truth)", True),
    "prior_worst": ("prior z, worst sample (chosen by the truth)", True),
    "prior_mode": ("z at the prior's mean", False),
    "posterior": ("posterior z (encoder sees the target)", True),
    "copy_first": ("copy-first (baseline)", False),
    "copy_previous_truth": ("copy-previous-truth (one-step oracle)", True),
    "median_background": ("median background of the truth (baseline)", True),
}
NOTHING = 0.01  # nats per frame, below which the latent carries no information
LAB_FRAMES = 600  # the lab scores frames 1 to 600 of each sequence
LAB_PUBLIC = 3  # the lab's public score: mean of the first three sequences; its private score: mean of the others


def summarise(series, last="all"):
    """Compute one row of the report for one sequence.

    Args:
        series: measure -> values per frame, from `evaluate.measure`.
        last: name of the horizon that covers all frames.

    Returns:
        A dict; an entry is None if there is no value to average:

        - ``psnr``, ``ssim``, ``psnr_person``, ``psnr_outside``: means over frames; each PSNR is a mean of dB values
        - ``psnr_of_mean_error``: PSNR in dB of the mean squared error over all frames, dominated by the worst frames
        - ``horizons``: name, such as ``1-50`` -> mean PSNR in dB and mean SSIM over frames 1 to 50
        - ``psnr_by_tenths``: mean PSNR in dB over each tenth of the film
        - ``sharpness``: gradient energy of the film divided by the gradient energy of the truth
        - ``colour_drift``: mean absolute difference between the mean colours of film and truth, in [0, 1]
        - ``lab_score``: mean PSNR in dB over frames 1 to 600, computed on integers from 0 to 255
    """
    psnr, ssim, truth_energy = series["psnr"], series["ssim"], series["gradient_energy_truth"].sum()
    horizons = {f"1-{h}": h for h in range(50, len(psnr), 50)} | {last: len(psnr)}
    return {
        "psnr": float(psnr.mean()), "psnr_of_mean_error": float(metrics.decibels(series["mse"].mean())),
        "ssim": float(ssim.mean()),
        "psnr_person": _mean(series["psnr_person"]), "psnr_outside": _mean(series["psnr_outside"]),
        "sharpness": float(series["gradient_energy"].sum() / truth_energy) if truth_energy else None,
        "colour_drift": float(series["colour_distance"].mean()),
        "lab_score": float(series["psnr_lab"][:LAB_FRAMES].mean()),
        "psnr_by_tenths": [float(part.mean()) for part in np.array_split(psnr, 10)] if len(psnr) >= 10 else [None] * 10,
        "horizons": {name: {"psnr": float(psnr[:h].mean()), "ssim": float(ssim[:h].mean())}
                     for name, h in horizons.items()},
    }


def _mean(values):
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def mean_over_sequences(summaries, lengths):
    """Average the dicts from `summarise` over sequences, entry by entry, weighted by sequence length.

    An entry is None if it is None for any sequence. A horizon that not all sequences reach is left out.
    """
    first = summaries[0]
    if isinstance(first, dict):
        shared = [name for name in first if all(name in other for other in summaries)]
        return {name: mean_over_sequences([one[name] for one in summaries], lengths) for name in shared}
    if isinstance(first, list):
        return [mean_over_sequences(values, lengths) for values in zip(*summaries, strict=True)]
    return None if None in summaries else float(np.average(summaries, weights=lengths))


def report_of(results, settings):
    """Build the report as a dict for JSON.

    Args:
        results: list of `evaluate.SequenceResult`.
        settings: dict with the first entries of the report.
    """
    rows = [row for row in ROWS if row in results[0].series]
    lengths = [len(one.kl) for one in results]
    last = f"1-{lengths[0]}" if len(set(lengths)) == 1 else "all"
    sequences = [{"name": one.name, "frames": len(one.kl), "diversity": one.diversity,
                  "kl_nats_per_frame": _mean(one.kl), "active_latents": one.active, "latents": one.latents,
                  "rows": {row: summarise(one.series[row], last) for row in rows},
                  "limbs": _limbs([one]), "healing": one.healing} for one in results]
    mean = {row: mean_over_sequences([one["rows"][row] for one in sequences], lengths) for row in rows}
    lab = None
    if settings.get("data_dir") != STUDIO and Path(settings.get("split", "")).name == "test":
        scores = {row: [one["rows"][row]["lab_score"] for one in sequences] for row in rows}
        whole = min(lengths) >= LAB_FRAMES
        lab = {row: {"per_sequence": values, "public": float(np.mean(values[:LAB_PUBLIC])) if whole else None,
                     "private": float(np.mean(values[LAB_PUBLIC:])) if whole and values[LAB_PUBLIC:] else None}
               for row, values in scores.items()}
    rate = _mean(np.concatenate([one.kl for one in results]))
    titles, uses_truth = ({row: ROWS[row][i] for row in rows} for i in (0, 1))
    return {**settings, "verdict": _verdict(mean, lengths), "titles": titles, "uses_truth": uses_truth,
            "kl_nats_per_frame": rate, "latent": _latent(rate), "notes": _notes(results), "mean": mean,
            "lab_score": lab, "limbs": _limbs(results), "healing": healing.merge([one.healing for one in results]),
            "sequences": sequences}


def _limbs(results):
    """What `limbs.shares` gives, or None if the films were not searched for limbs."""
    found = [one.limbs for one in results]
    return None if None in found else limbs.shares(found)


def _verdict(mean, lengths):
    """The main result in a sentence."""
    text = (f"From one frame and the poses, the model generates {sum(lengths)} frames"
            + (f" in {len(lengths)} films" if len(lengths) > 1 else "") + f" at {mean['prior']['psnr']:.2f} dB PSNR")
    if "copy_first" in mean:
        gain = mean["prior"]["psnr"] - mean["copy_first"]["psnr"]
        text += f", {abs(gain):.2f} dB {'above' if gain >= 0 else 'below'} copy-first (the first frame repeated)"
    return text + "."


def _latent(rate):
    """Why the samples are alike, in words; an empty string if the latent carries information."""
    if rate is None or rate >= NOTHING:
        return ""
    return (f"The latent carries nothing here: {rate:.2g} nats per frame. First frame and poses determine the frames, "
            "so all samples are alike. Footage with something that the poses leave open needs --preset stochastic.")


def _notes(results):
    notes = list(dict.fromkeys(one.note for one in results if one.note))
    infinite = sum(int(np.sum(~np.isfinite(one.kl))) for one in results)
    if infinite:
        notes.append(f"The KL of {infinite} frames is not finite; the rate is the mean of the others.")
    broken = sum(one.broken for one in results)
    if broken:
        notes.append(f"{broken} generated frames hold values that are not finite.")
    return notes
