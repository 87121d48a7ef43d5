"""Healing: whether a film comes back to the undisturbed film after one frame was replaced by another picture.

Each frame is generated from the frame before, so an error could stay for ever. The measure replaces one previous frame,
continues the film with the same poses and latents, and compares its PSNR against the truth with the PSNR of the
undisturbed film. No true frame after the first is given to the model: the disturbances come from the generated film.
"""

import numpy as np

from cvae_tf.evaluation import metrics
from cvae_tf.model.defaults import GENERATION_CHUNK

AFTER = 10  # the film must be back after so many frames
TOLERANCE = 0.3  # a film this near the undisturbed one, in dB, has healed
FRAMES = 24  # frames to generate after a disturbance
DISTURBANCES = {  # name -> its title
    "noise": "noise", "black": "black", "white": "white", "inverted": "inverted colours",
    "other_time": "a frame of another time", "other_person": "another person (mirrored, red and blue exchanged)",
}


def starts(count):
    """The numbers of frames before the disturbances, in a film of ``count`` frames: up to three, without repeats.

    They are 0, about a third and about two thirds of the film, each a multiple of `GENERATION_CHUNK` that leaves at
    least one frame to measure after `AFTER` frames.
    """
    nearest = (GENERATION_CHUNK * round(count * third / 3 / GENERATION_CHUNK) for third in range(3))
    return sorted({start for start in nearest if count - start > AFTER})


def disturb(first_frame, film, start):
    """The pictures that replace the frame before frame ``start`` of a film.

    Args:
        first_frame: (H, W, 3) floats in [0, 1], the frame before the film.
        film: (T, H, W, 3) floats in [0, 1].
        start: index from 0 to T-1.

    Returns:
        A dict from each of the `DISTURBANCES` to a picture, (H, W, 3) float32 in [0, 1].
    """
    before = film[start - 1] if start else first_frame
    pictures = {"noise": np.random.default_rng(start).random(before.shape), "black": np.zeros(before.shape),
                "white": np.ones(before.shape), "inverted": 1 - before,
                "other_time": film[(start + len(film) // 2) % len(film)], "other_person": before[:, ::-1, ::-1]}
    return {name: np.clip(np.nan_to_num(picture), 0, 1).astype(np.float32) for name, picture in pictures.items()}


def measure_healing(model, first_frame, truth, poses, film, seed=0, temperature=1.0):
    """Disturb a film at each of its `starts`, and measure how far it is from the undisturbed film afterwards.

    Args:
        model: an `ExportedModel`, or any object with its method ``continue_film``.
        first_frame: (H, W, 3) floats in [0, 1], the true frame before the film.
        truth, poses: (T, H, W, 3) floats in [0, 1], the true frames and the poses of the film.
        film: (T, H, W, 3) floats in [0, 1], the film that the model generates with ``seed`` and ``temperature``.
        seed, temperature: as for `ExportedModel.generate`.

    Returns:
        None if the film is too short, or else a dict: ``starts``, a list; ``measured``, the largest number of frames
        generated after a disturbance; and ``disturbances``, which has for each of the `DISTURBANCES` a dict:

        - ``lost``: PSNR of the undisturbed film minus PSNR of the disturbed film in dB, the mean over the frames after
          the first `AFTER`; of all starts, the largest
        - ``frames``: number of frames until the loss stays at most `TOLERANCE`; of all starts, the largest. None if it
          does not within the measured frames
    """
    begins, found = starts(len(film)), {name: [] for name in DISTURBANCES}
    for start in begins:
        part = slice(start, min(start + FRAMES, len(film)))
        undisturbed = metrics.psnr_per_frame(truth[part], film[part])
        for name, picture in disturb(first_frame, film, start).items():
            disturbed = model.continue_film(first_frame, picture, poses[part], seed, temperature, start)
            found[name].append(undisturbed - metrics.psnr_per_frame(truth[part], disturbed))
    if not begins:
        return None
    return {"starts": begins, "measured": max(map(len, found["noise"])),
            "disturbances": {name: {"lost": max(float(lost[AFTER:].mean()) for lost in losses),
                                    "frames": _worst([_frames(lost) for lost in losses])}
                             for name, losses in found.items()}}


def _frames(lost):
    """The number of frames until the loss stays at most `TOLERANCE`; None if it does not."""
    late = np.flatnonzero(lost > TOLERANCE)
    count = int(late[-1]) + 1 if len(late) else 0
    return count if count < len(lost) else None


def _worst(counts):
    return None if None in counts else max(counts)


def merge(results):
    """Join the measurements of several sequences: of each number the worst, and the verdict.

    Args:
        results: list of what `measure_healing` returned; None is left out.

    Returns:
        None if nothing was measured, or else a dict: ``heals``, whether each ``lost`` is at most `TOLERANCE`; ``lost``,
        the largest of all; ``frames``, the largest of all or None; ``starts``, their number in all sequences; and
        ``measured`` and ``disturbances`` as from `measure_healing`.
    """
    results = [one for one in results if one is not None]
    if not results:
        return None
    disturbances = {}
    for name in DISTURBANCES:
        rows = [one["disturbances"][name] for one in results]
        disturbances[name] = {"lost": max(row["lost"] for row in rows),
                              "frames": _worst([row["frames"] for row in rows])}
    lost = max(row["lost"] for row in disturbances.values())
    return {"heals": lost <= TOLERANCE, "lost": lost,
            "frames": _worst([row["frames"] for row in disturbances.values()]),
            "starts": sum(len(one["starts"]) for one in results), "measured": max(one["measured"] for one in results),
            "disturbances": disturbances}


def verdict(healing):
    """One sentence on what `merge` returned."""
    if healing["heals"]:
        return (f"The film heals: {AFTER} frames after any disturbed frame, its PSNR is within {TOLERANCE} dB of the "
                f"undisturbed film (at worst {max(0.0, healing['lost']):.2f} dB below).")
    worst = max(healing["disturbances"], key=lambda name: healing["disturbances"][name]["lost"])
    return (f"The film does not heal: {AFTER} frames after a disturbed frame, its PSNR is up to {healing['lost']:.2f} "
            f"dB below the undisturbed film (previous frame: {DISTURBANCES[worst]}).")
