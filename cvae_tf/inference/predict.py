"""Generate a film from one frame and poses with an exported model: the work of ``python predict.py``."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cvae_tf.config import STUDIO, check_ranges
from cvae_tf.data import film
from cvae_tf.data.film import film_writer, side_by_side, to_uint8
from cvae_tf.errors import InputError, say
from cvae_tf.evaluation.metrics import psnr_per_frame
from cvae_tf.evaluation.tables import psnr_table
from cvae_tf.files import atomic, check_paths, check_writable, write_csv
from cvae_tf.inference.driver import from_images, from_key_points, from_studio, is_key_points
from cvae_tf.inference.exported_model import CHUNK, ExportedModel, folder_of, newest_model, open_model

PART = 7 * CHUNK  # number of frames that are read, generated and written at a time


@dataclass(frozen=True)
class Prediction:
    """The result of `predict`.

    Attributes:
        path: path of the film.
        frames: number of frames in the film.
        psnr: name -> mean PSNR in dB over the generated frames. The names are ``prediction`` (or ``sample 1`` and so
            on) and ``copy-first``, the repeated first frame. Empty if the true frames are unknown.
    """

    path: Path
    frames: int
    psnr: dict[str, float] = field(default_factory=dict)


def predict(model: str | Path | ExportedModel | None = None, first_frame: str | Path | None = None,
            poses: str | Path | None = None, truth: str | Path | None = None, output: str | Path = "prediction.gif", *,
            fit: str | None = None, view: str | float = "front", compare: bool = False, overlay: bool = False,
            contact_sheet: bool = False, seed: int = 0, temperature: float = 1.0, samples: int = 1,
            fps: float | None = None, scale: int = 4, enlarge: str = "nearest", overwrite: bool = False) -> Prediction:
    """Generate and write a film with z from the prior; print its path and, if the truth is known, its PSNR.

    The film has one frame for each pose. A first pose with the file name of the first frame is taken as the pose of
    that frame: the film then begins with the given frame, and the first generated frame belongs to the second pose.
    Frames are read, generated and written in parts, so memory does not grow with the length of the film.

    Args:
        model: folder of an exported model, or an `ExportedModel`; None: the newest in ``saved_models/``.
        first_frame: image of the given frame; None: the first frame of ``truth``, or else of the model's own footage.
        poses: a folder of drawn poses (PNG); a video, or key points as for `formats.read_key_points`, from which poses
            are drawn as in the model's footage; None or ``"studio"``: the studio's validation sequence, with its truth.
        truth: folder of the true frames, with the same file names as the drawn poses. With it, the film shows truth,
            pose and prediction, and a PSNR curve (PNG) and table (CSV) are written beside the film.
        output: path of the film: ``.gif``, ``.mp4``, ``.webm``, ``.npz`` (the frames as an array), or no suffix for a
            folder of PNG files.
        fit: None, ``"place"`` or ``"limbs"``: retargeting of the person in a video or in key points, as for
            `driver.from_key_points`.
        view: direction from which motion capture (BVH) is seen: ``"front"``, ``"side"`` or degrees.
        compare: show the driver, the pose and the prediction side by side; only for videos and key points.
        overlay: draw the pose over the prediction.
        contact_sheet: write a PNG of 24 frames beside the film.
        seed: seed of the latents, from 0; sample k, counted from 0, takes ``seed + k``.
        temperature: factor on the deviation of z from the prior's mean, from 0 to 100.
        samples: number of films to generate and show side by side, from 1 to 64.
        fps: frames per second of the film, from 1 to 50; None: those of the model's footage.
        scale: factor by which width and height of the frames are enlarged, from 1 to 32.
        enlarge: ``"nearest"``, which shows pixels as squares, or ``"lanczos"``, which is smooth.
        overwrite: replace files at the output's paths that the program did not make. A folder is never replaced.

    Returns:
        A `Prediction`.

    Raises:
        InputError: a value is out of range, an input is missing or unreadable, or the output cannot be written.
    """
    check_ranges(dict(samples=(1, 64), seed=(0, 2**31 - samples), temperature=(0, 100), scale=(1, 32)),
                 samples=samples, seed=seed, temperature=temperature, scale=scale)
    if fps is not None:
        check_ranges({"fps": (1, 50)}, fps=fps)
    output, poses = Path(output), None if poses == STUDIO else poses
    path = newest_model() if model is None else model
    drawn = poses is None or not is_key_points(poses)
    if drawn and (fit or compare):
        raise InputError(f"--{'retarget' if fit else 'compare'} needs --poses with a video or key points")
    if truth and not drawn:
        raise InputError("--truth needs --poses with a folder of drawn poses")
    sheet = output.with_name(f"{output.stem}_sheet.png") if contact_sheet else None
    _check_paths(folder_of(path), first_frame, poses, truth, output, sheet, overwrite)
    model = open_model(path, chosen=model is None)
    if poses is None:
        driver = from_studio(model)
    elif drawn:
        driver = from_images(model, first_frame, poses, truth)
    else:
        driver = from_key_points(model, first_frame, poses, fit=fit, view=view)
    if driver.length <= driver.given:
        raise InputError("the only pose is the first frame's own; give at least one more")
    return _generate(model, driver, output, sheet, compare, overlay, seed, temperature, samples,
                     fps or min(50, driver.fps), scale, enlarge)


def _generate(model, driver, output, sheet, compare, overlay, seed, temperature, samples, fps, scale, enlarge):
    """Generate the film of a `Driver` in parts, write it, and measure it if the truth is known."""
    films = [model.film(driver.first_frame, seed + k, temperature) for k in range(samples)]
    names = [f"sample {k + 1}" for k in range(samples)] if samples > 1 else ["prediction"]
    curves = {name: [] for name in (*names, "copy-first")}
    length, given = driver.length, driver.given
    chosen, cells = set(np.linspace(0, length - 1, min(length, film.SHEET)).astype(int).tolist()), []
    with film_writer(output, fps, scale, enlarge) as append, ThreadPoolExecutor(model.films_at_once) as pool:
        for start in range(given, length, PART):
            begin = given if start == given else 0  # the first part also holds the given frame
            part = slice(start - begin, min(start + PART, length))
            poses, truth = driver.read(part)
            new_poses = poses[begin:]
            parts = list(pool.map(lambda extend: extend(new_poses), films))  # noqa: B023 (finished within this iteration)
            if truth is not None:
                copied = np.broadcast_to(driver.first_frame, truth[begin:].shape)
                for curve, one in zip(curves.values(), (*parts, copied), strict=True):
                    curve.append(psnr_per_frame(truth[begin:], one))
            if begin:
                parts = [np.concatenate([driver.first_frame[None], one]) for one in parts]
            panels = [to_uint8(one) for one in parts]
            if overlay:
                panels = [film.overlay(panel, to_uint8(poses)) for panel in panels]
            if truth is not None:
                panels = [to_uint8(truth), to_uint8(poses), *panels]
            elif compare:
                panels = [driver.show(part), to_uint8(poses), *panels]
            shown = side_by_side(*panels)
            append(shown)
            if sheet:
                cells += [shown[t - part.start].copy() for t in range(part.start, part.stop) if t in chosen]
    first = ["truth", "pose"] if truth is not None else ["driver", "pose"] if compare else []
    say(f"{output}: {length} frames by {model.path} ({', '.join([*first, *names])})")
    if sheet:
        film.write_png(sheet, film.contact_sheet(np.stack(cells), len(cells), scale=scale))
        say(f"Contact sheet: {sheet}")
    if truth is None:
        return Prediction(output, length)
    return Prediction(output, length, _score(output, {name: np.concatenate(curve) for name, curve in curves.items()}))


def _check_paths(model, first_frame, poses, truth, output, sheet, overwrite):
    """Refuse inputs that do not fit together, and an output that cannot be written or would replace an input."""
    if poses is None and (first_frame or truth):
        raise InputError("--first_frame and --truth need --poses FOLDER")
    film.check(output)
    plot_and_table = [output.with_suffix(".png"), output.with_suffix(".csv")] if poses is None or truth else []
    written = [output, *plot_and_table, *([sheet] if sheet else [])]
    check_paths({"--model": model, "--first_frame": first_frame, "--poses": poses, "--truth": truth},
                {"--output": written})
    if not output.suffix and output.exists():
        raise InputError(f"{output}: is there already; choose another --output")
    for path in written:
        check_writable(path, "--output", overwrite, b"frame,psnr_" if path.suffix == ".csv" else None)


def _score(output, curves):
    """Write PSNR curves (name -> (T,) in dB) as PNG and CSV beside the film; print and return their means."""
    from cvae_tf.evaluation.plots import psnr_per_frame_png  # slow, as it imports Matplotlib

    plot, table = output.with_suffix(".png"), output.with_suffix(".csv")
    with atomic(plot) as unfinished:
        unfinished.write_bytes(psnr_per_frame_png(curves, f"{output.stem}: free running, z from the prior"))
    write_csv(table, *psnr_table(curves))
    means = {name: float(curve.mean()) for name, curve in curves.items()}
    print(f"PSNR, mean of {len(curves['copy-first'])} frames, z from the prior: "
          + ", ".join(f"{name} {mean:.2f} dB" for name, mean in means.items()))
    print(f"Per frame: {plot}, {table}")
    return means
