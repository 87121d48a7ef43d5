"""From per-frame measures to the numbers of a report: means, horizons, the lab's score, and notes."""

import numpy as np

from cvae_tf.evaluation import metrics

ROWS = {  # what is compared with the truth: its title, and whether it has seen the truth that it is compared with
    "prior": ("prior z, mean of the samples", False),
    "prior_best": ("prior z, best sample (chosen by the truth)", True),
    "prior_worst": ("prior z, worst sample (chosen by the truth)", True),
    "prior_mode": ("z at the prior's mean", False),
    "posterior": ("posterior z (encoder sees the target)", True),
    "copy_first": ("copy-first (baseline)", False),
    "copy_previous_truth": ("copy-previous-truth (one-step oracle)", True),
    "median_background": ("median background of the truth (baseline)", True),
}
COLLAPSED = 0.01  # nats per frame, below which the latent tells nothing
LAB_FRAMES = 600  # the lab scores frames 1 to 600 of each sequence ...
LAB_PUBLIC = 3  # ... and calls the mean of the first three sequences public, that of the others private


def summarise(series, last="all"):
    """The numbers of one row on one sequence, from what `evaluate.measure` gave.

    ``psnr``, ``ssim``, ``psnr_person``, ``psnr_outside``: means over frames (of the dB); ``psnr_of_mean_error``: dB of
    the mean error, which the worst frames rule; ``horizons``: means over frames 1 to h, those over all frames under the
    name ``last``; ``psnr_by_tenths`` of the rollout; ``sharpness``: gradient energy of the film over that of the truth;
    ``colour_drift``: mean absolute, in [0, 1]; ``lab_score``: mean PSNR of frames 1 to 600 on 0..255. None where there
    is nothing to take a mean of.
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
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else None


def mean_over_sequences(summaries, lengths):
    """The mean over all frames of `summarise` results of sequences of so many frames, number by number.

    None where a sequence has none; a horizon that not all reach is left out.
    """
    first = summaries[0]
    if isinstance(first, dict):
        shared = [name for name in first if all(name in other for other in summaries)]
        return {name: mean_over_sequences([one[name] for one in summaries], lengths) for name in shared}
    if isinstance(first, list):
        return [mean_over_sequences(values, lengths) for values in zip(*summaries, strict=True)]
    return None if None in summaries else float(np.average(summaries, weights=lengths))


def report_of(evaluated, settings):
    """The report of all sequences, a list of `evaluate.Evaluated`, as a dict for JSON; ``settings`` come first."""
    rows = [row for row in ROWS if row in evaluated[0].series]
    lengths = [len(one.kl) for one in evaluated]
    last = f"1-{lengths[0]}" if len(set(lengths)) == 1 else "all"
    sequences = [{"name": one.name, "frames": len(one.kl), "diversity": one.diversity,
                  "kl_nats_per_frame": _mean(one.kl), "active_latents": one.active, "latents": one.latents,
                  "rows": {row: summarise(one.series[row], last) for row in rows}} for one in evaluated]
    mean = {row: mean_over_sequences([one["rows"][row] for one in sequences], lengths) for row in rows}
    scores = {row: [one["rows"][row]["lab_score"] for one in sequences] for row in rows}
    whole = min(lengths) >= LAB_FRAMES
    lab = {row: {"per_sequence": values, "public": float(np.mean(values[:LAB_PUBLIC])) if whole else None,
                 "private": float(np.mean(values[LAB_PUBLIC:])) if whole and values[LAB_PUBLIC:] else None}
           for row, values in scores.items()}
    rate = _mean(np.concatenate([one.kl for one in evaluated]))
    titles, uses_truth = ({row: ROWS[row][i] for row in rows} for i in (0, 1))
    return {**settings, "titles": titles, "uses_truth": uses_truth, "kl_nats_per_frame": rate,
            "notes": _notes(evaluated, rate, whole), "mean": mean, "lab_score": lab, "sequences": sequences}


def _notes(evaluated, rate, whole):
    notes = list(dict.fromkeys(one.note for one in evaluated if one.note))
    if rate is not None and rate < COLLAPSED:
        notes.append(f"The latent has collapsed: {rate:.2g} nats per frame. The posterior is the prior, and z tells "
                     "nothing about a frame.")
    infinite = sum(int(np.sum(~np.isfinite(one.kl))) for one in evaluated)
    if infinite:
        notes.append(f"The KL of {infinite} frames is not finite; the rate is the mean of the others.")
    broken = sum(one.broken for one in evaluated)
    if broken:
        notes.append(f"{broken} generated frames hold something other than finite numbers.")
    if not whole:
        notes.append(f"The lab scores frames 1 to {LAB_FRAMES}. Shorter sequences are scored on what there is, and "
                     "public and private means are left out.")
    return notes
