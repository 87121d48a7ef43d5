"""Generate a film from one frame and drawn poses with an exported model: the work of ``python predict.py``."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cvae_tf.config import STUDIO, check_ranges, studio_of
from cvae_tf.data import images
from cvae_tf.data.film import WRITERS, film_writer, side_by_side
from cvae_tf.data.sequences import load_sequences
from cvae_tf.errors import InputError, say
from cvae_tf.evaluation.metrics import psnr_per_frame
from cvae_tf.evaluation.tables import psnr_table
from cvae_tf.files import atomic, check_paths, check_writable, write_csv
from cvae_tf.inference.exported_model import CHUNK, folder_of, newest_model, open_model

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
    psnr: dict = field(default_factory=dict)


def predict(model=None, first_frame=None, poses=None, truth=None, output="prediction.gif", *, seed=0, temperature=1.0,
            samples=1, fps=20, scale=4, overwrite=False):
    """Generate and write a film with z from the prior; print its path and, if the truth is known, its PSNR.

    The film has one frame for each pose. A first pose with the file name of the first frame is taken as the pose of
    that frame: the film then begins with the given frame, and the first generated frame belongs to the second pose.
    Frames are read, generated and written in parts, so memory does not grow with the length of the film.

    Args:
        model: folder of an exported model, or an `ExportedModel`; None: the newest in ``saved_models/``.
        first_frame: PNG of the given frame; None: the first frame of ``truth``.
        poses: folder of drawn poses (PNG); None or ``"studio"``: the studio's validation sequence, with its truth.
        truth: folder of the true frames, with the same file names as the poses. With it, the film shows truth, pose and
            prediction, and a PSNR curve (PNG) and table (CSV) are written beside the film.
        output: path of the film: ``.gif``, ``.mp4``, or no suffix for a folder of PNG files.
        seed: seed of the latents, from 0; sample k, counted from 0, takes ``seed + k``.
        temperature: factor on the deviation of z from the prior's mean, from 0 to 100.
        samples: number of films to generate and show side by side, from 1 to 64.
        fps: frames per second, from 1 to 50.
        scale: side in pixels of the square that shows one pixel, from 1 to 32.
        overwrite: replace files at the output's paths that the program did not make. A folder is never replaced.

    Returns:
        A `Prediction`.

    Raises:
        InputError: a value is out of range, an input is missing or unreadable, or the output cannot be written.
    """
    check_ranges(dict(samples=(1, 64), seed=(0, 2**31 - samples), temperature=(0, 100), fps=(1, 50), scale=(1, 32)),
                 samples=samples, seed=seed, temperature=temperature, fps=fps, scale=scale)
    output, poses = Path(output), None if poses == STUDIO else poses
    path = newest_model() if model is None else model
    _check_paths(folder_of(path), first_frame, poses, truth, output, overwrite)
    model = open_model(path, chosen=model is None)
    first_frame, given, length, read = _studio(model) if poses is None else _open(model, first_frame, poses, truth)
    if length <= given:
        raise InputError("the only pose is the first frame's own; give at least one more")
    films = [model.film(first_frame, seed + k, temperature) for k in range(samples)]
    names = [f"sample {k + 1}" for k in range(samples)] if samples > 1 else ["prediction"]
    curves = {name: [] for name in (*names, "copy-first")}
    with film_writer(output, fps, scale) as append, ThreadPoolExecutor(model.films_at_once) as pool:
        for start in range(given, length, PART):
            begin = given if start == given else 0  # the first part also holds the given frame
            poses, truth = read(slice(start - begin, start + PART))
            new_poses = poses[begin:]
            parts = list(pool.map(lambda film: film(new_poses), films))  # noqa: B023 (finished within this iteration)
            if truth is not None:
                copied = np.broadcast_to(first_frame, truth[begin:].shape)
                for curve, part in zip(curves.values(), (*parts, copied), strict=True):
                    curve.append(psnr_per_frame(truth[begin:], part))
            if begin:
                parts = [np.concatenate([first_frame[None], part]) for part in parts]
            append(side_by_side(*parts) if truth is None else side_by_side(truth, poses, *parts))
    shown = names if truth is None else ["truth", "pose", *names]
    say(f"{output}: {length} frames by {model.path} ({', '.join(shown)})")
    if truth is None:
        return Prediction(output, length)
    return Prediction(output, length, _score(output, {name: np.concatenate(curve) for name, curve in curves.items()}))


def _check_paths(model, first_frame, poses, truth, output, overwrite):
    """Refuse inputs that do not fit together, and an output that cannot be written or would replace an input."""
    if poses is None and (first_frame or truth):
        raise InputError("--first_frame and --truth need --poses FOLDER")
    if poses is not None and not (first_frame or truth):
        raise InputError("--poses needs the first frame: give --first_frame F.png or --truth FOLDER")
    if output.suffix.lower() not in WRITERS:
        raise InputError(f"--output must end in .gif or .mp4, or have no ending for a folder of PNG, received {output}")
    plot_and_table = [output.with_suffix(".png"), output.with_suffix(".csv")] if poses is None or truth else []
    check_paths({"--model": model, "--first_frame": first_frame, "--poses": poses, "--truth": truth},
                {"--output": [output, *plot_and_table]})
    if not output.suffix and output.exists():
        raise InputError(f"{output}: is there already; choose another --output")
    for path in (output, *plot_and_table):
        check_writable(path, "--output", overwrite, b"frame,psnr_" if path.suffix == ".csv" else None)


# The next two functions return ``(first_frame, given, length, read)``: ``first_frame``, (H, W, 3) floats; ``given``, 1
# if pose 0 belongs to the first frame, else 0; ``length``, the number of poses; and ``read``, a function from a slice
# of the poses to ``(poses, truth)``, each (n, H, W, 3) floats. ``truth`` is None if it is unknown.

def _studio(model):
    """The validation sequence of the studio in the variant that the model was trained on."""
    (sequence,) = load_sequences(STUDIO, "val", model.height, model.width, **studio_of(model.path))

    def read(part):
        return images.to_float(sequence.poses[part]), images.to_float(sequence.frames[part])

    return images.to_float(sequence.frames[0]), 1, len(sequence.poses), read


def _open(model, first_frame, poses, truth):
    """Images from the folders ``poses`` and ``truth`` and the file ``first_frame``, read only when needed."""
    size, truth_paths, pose_paths = (model.height, model.width), None, images.list_images(poses)
    if len(images.uncut(pose_paths)) > 1:
        say(f"{poses}: the numbers have gaps; the film goes on across them")
    if truth:
        by_name = {path.name: path for path in images.list_images(truth)}
        missing = [path.name for path in pose_paths if path.name not in by_name]
        if missing:
            raise InputError(f"{truth}: no true frame {missing[0]} for the pose of that name")
        truth_paths = [by_name[path.name] for path in pose_paths]
    first_path = Path(first_frame) if first_frame else truth_paths[0]
    images.check_shapes(first_path, pose_paths[0], *size)
    if truth and first_frame:
        images.check_shapes(truth_paths[0], pose_paths[0], *size)
    first_image = images.to_float(images.read_image(first_path, *size))
    # The images of all parts must have the size of the first image.
    sources = [(paths, paths and images.image_size(paths[0])) for paths in (pose_paths, truth_paths)]

    def read(part):
        return [paths and images.to_float(images.read_images(paths[part], *size, expected))
                for paths, expected in sources]

    return first_image, int(first_path.name == pose_paths[0].name), len(pose_paths), read


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
