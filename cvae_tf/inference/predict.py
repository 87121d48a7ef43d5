"""From a SavedModel, one frame and drawn poses to a GIF: what ``python predict.py`` does.

Knows the exported model by its signatures only; neither the model nor the networks are imported.
"""

import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cvae_tf.config import STUDIO, normalise_flags, parser_for, studio_of
from cvae_tf.data import images
from cvae_tf.data.film import WRITERS, film_writer, side_by_side
from cvae_tf.data.sequences import load_sequences
from cvae_tf.errors import InputError
from cvae_tf.evaluation.metrics import psnr_per_frame
from cvae_tf.evaluation.tables import psnr_table
from cvae_tf.files import atomic, check_model, check_writable, write_csv

PART = 448  # frames that are read, generated and written at a time: a multiple of what the exported model works in
# Up to here, in pixels times squared width, a unet's operations are so small that a second thread slows each one down.
LIGHT = 32 * 64 * 32**2


class Generator:
    """The exported model at ``path``.

    Raises:
        InputError: there is no such model, or it is not one of this project's.
    """

    def __init__(self, path):
        check_model(path)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf  # slow: not for --help, a mistyped flag or folder

        self.films_at_once = 1
        if _is_light(path) and not tf.config.list_physical_devices("GPU"):
            self.films_at_once = os.cpu_count()
            with contextlib.suppress(RuntimeError):  # TensorFlow has been at work already: then only slower
                tf.config.threading.set_intra_op_parallelism_threads(1)
                tf.config.threading.set_inter_op_parallelism_threads(-1)  # all in the caller's thread
        self._tf = tf
        try:
            self._loaded = tf.saved_model.load(str(path))  # kept: its variables live only as long as it does
        except Exception as error:  # whatever damaged bytes make TensorFlow raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{path}: the SavedModel cannot be loaded ({reason}); copy or train it again") from error
        for name, needed in (("generate", {"first_frame", "poses", "seed", "temperature"}),
                             ("reconstruct", {"frames", "poses"})):
            signature = self._loaded.signatures.get(name)
            if signature is None or set(signature.structured_input_signature[1]) != needed:
                raise InputError(f"{path}: this SavedModel has no signature '{name}' of {', '.join(sorted(needed))}; "
                                 "train one with python train.py")
        self._generate, self._reconstruct = (self._loaded.signatures[name] for name in ("generate", "reconstruct"))
        self._continue = self._loaded.signatures.get("continue")
        self._path = path
        self.height, self.width = self._generate.structured_input_signature[1]["first_frame"].shape[1:3]

    def __call__(self, first_frame, poses, seed=0, temperature=1.0):
        """Generate one film.

        Args:
            first_frame: (H, W, 3) float in [0, 1].
            poses: (T, H, W, 3) float in [0, 1].
            seed: of the latents.
            temperature: scale of the latents; 0 gives the most likely film.

        Returns:
            (T, H, W, 3) float32 in [0, 1], the frame of each pose in turn.
        """
        tf = self._tf
        output = self._generate(first_frame=tf.constant(first_frame[None], tf.float32),
                                poses=tf.constant(poses[None], tf.float32), seed=tf.constant([0, seed], tf.int32),
                                temperature=tf.constant(temperature, tf.float32))
        return output["frames"][0].numpy()

    def film(self, first_frame, seed=0, temperature=1.0):
        """A film to be generated in parts: a function from poses (n, H, W, 3) to the next n frames (n, H, W, 3).

        All parts but the last must be of a multiple of 64 frames. They equal those of a film made at once.

        Raises:
            InputError: the model was exported by a version that could not do this.
        """
        if self._continue is None:
            raise InputError(f"{self._path}: this SavedModel is of an earlier version, with no signature 'continue'; "
                             "train it again")
        tf = self._tf
        context = before = tf.constant(first_frame[None], tf.float32)
        start = 0

        def extend(poses):
            nonlocal before, start
            if start % 64:
                raise ValueError(f"only the last part of a film may be of no multiple of 64 frames, not {start}")
            output = self._continue(context_frame=context, before=before, poses=tf.constant(poses[None], tf.float32),
                                    seed=tf.constant([0, seed], tf.int32), start=tf.constant(start, tf.int32),
                                    temperature=tf.constant(temperature, tf.float32))
            before, start = output["last"], start + len(poses)
            return output["frames"][0].numpy()

        return extend

    def reconstruct(self, frames, poses):
        """Free running with z from the posterior, which sees each frame to predict: no prediction.

        Args:
            frames, poses: (T, H, W, 3) float in [0, 1].

        Returns:
            ``(predictions, kl, mean)``: (T-1, H, W, 3) float32 in [0, 1]; (T-1,) nats; and (T-1, h, w, c), the
            posterior's mean, or None where the model was exported without it.
        """
        output = self._reconstruct(frames=self._tf.constant(frames[None], self._tf.float32),
                                   poses=self._tf.constant(poses[None], self._tf.float32))
        mean = output.get("mean")
        return output["frames"][0].numpy(), output["kl"][0].numpy(), None if mean is None else mean[0].numpy()


def _is_light(path):
    """Whether the operations of the exported model are too small to be shared between threads."""
    try:
        config = json.loads((Path(path) / "config.json").read_text())
        work = config["frame_H"] * config["frame_W"] * config["width"]**2
        return config["network"] == "unet" and work <= LIGHT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def newest_model(folder=Path("saved_models")):
    """The most recently written SavedModel in ``folder``.

    Raises:
        InputError: there is none.
    """
    models = sorted(Path(folder).glob("[!.]*/saved_model.pb"), key=lambda path: path.stat().st_mtime)
    if not models:
        raise InputError(f"{folder}: no SavedModel in this folder; train one with python train.py, or give --model")
    return models[-1].parent


def parse_args(argv):
    """Read the command line of ``predict.py``.

    Raises:
        InputError: an unknown flag or a value out of range.
    """
    parser = parser_for("predict.py", "Generate a film from one frame and drawn poses, with an exported model. Without "
                        "flags: the newest model in saved_models/, and the studio's validation sequence.")
    parser.add_argument("--model", help="folder of a SavedModel [the newest in saved_models/]")
    parser.add_argument("--first_frame", help="PNG of the given frame [the first of --truth]")
    parser.add_argument("--poses", help=f"folder of drawn poses, PNG, or '{STUDIO}' [{STUDIO}]")
    parser.add_argument("--truth", help="folder of the true frames, named like the poses, to compare with")
    parser.add_argument("--data_dir", help="instead: folder in the lab's layout, to generate its test sequences")
    parser.add_argument("--split", help="with --data_dir: test, or a folder with *_img and *_label [test]")
    parser.add_argument("--out", help="with --data_dir: folder of the GIFs [predictions]")
    parser.add_argument("--csv", help="with --data_dir: the lab's submission file to write")
    parser.add_argument("--output", help="film to write: .gif, .mp4, or a name without ending for a folder of "
                        "PNG; curve and table go beside it [prediction.gif]")
    parser.add_argument("--seed", type=int, default=0, help="of the latents; sample k takes seed + k")
    parser.add_argument("--temperature", type=float, default=1.0, help="scale of the latents; 0: the most likely film")
    parser.add_argument("--samples", type=int, default=1, help="films to draw, side by side")
    parser.add_argument("--fps", type=float, default=20, help="frames per second")
    parser.add_argument("--scale", type=int, default=4, help="size of a pixel in the GIF")
    args = parser.parse_args(normalise_flags(argv))
    limits = dict(seed=(0, 2**31 - 1), temperature=(0, 100), samples=(1, 64), fps=(1, 50), scale=(1, 32))
    for name, (low, high) in limits.items():
        if not low <= getattr(args, name) <= high:
            raise InputError(f"--{name} must be from {low} to {high}, received {getattr(args, name)}")
    if args.seed + args.samples > 2**31:
        raise InputError(f"--seed plus --samples must be at most {2**31}, received {args.seed} and {args.samples}")
    split = args.data_dir is not None
    misplaced = [name for name in (("poses", "first_frame", "truth", "output") if split else ("split", "out", "csv"))
                 if getattr(args, name) is not None]
    if split and args.samples > 1:
        misplaced.append("samples")
    if misplaced:
        raise InputError(f"--{misplaced[0]} cannot be given {'with' if split else 'without'} --data_dir")
    args.split, args.out, args.output = args.split or "test", args.out or "predictions", args.output or "prediction.gif"
    if Path(args.output).suffix.lower() not in WRITERS:
        raise InputError(f"--output must end in .gif or .mp4, or have no ending for a folder of PNG, received "
                         f"{args.output}")
    if args.poses in (None, STUDIO) and (args.first_frame or args.truth):
        raise InputError("--first_frame and --truth need --poses FOLDER")
    if args.poses not in (None, STUDIO) and not (args.first_frame or args.truth):
        raise InputError("--poses needs the first frame: give --first_frame F.png or --truth FOLDER")
    return args


def _read_input(args, model, height, width):
    """What to generate from: of the studio, that which the model knows.

    Returns:
        ``(first_frame, given, length, read)``: (H, W, 3); whether pose 0 is the first frame's; the number of poses;
        and a function from a slice of them to ``(poses, truth)``, each (n, H, W, 3), the truth None where unknown.
    """
    if args.poses in (None, STUDIO):
        (sequence,) = load_sequences(STUDIO, "val", height, width, **studio_of(model))
        return (images.to_float(sequence.frames[0]), True, len(sequence.poses),
                lambda part: (images.to_float(sequence.poses[part]), images.to_float(sequence.frames[part])))
    truth_paths, pose_paths = None, images.list_images(args.poses)
    if len(images.uncut(pose_paths)) > 1:
        print(f"{args.poses}: the numbers have gaps; the film goes on across them", flush=True)
    if args.truth:
        names = {path.name: path for path in images.list_images(args.truth)}
        missing = [path.name for path in pose_paths if path.name not in names]
        if missing:
            raise InputError(f"{args.truth}: no true frame {missing[0]} for the pose of that name")
        truth_paths = [names[path.name] for path in pose_paths]
    first_path = Path(args.first_frame) if args.first_frame else truth_paths[0]
    first_frame = images.to_float(images.read_image(first_path, height, width))
    sizes = [paths and images.image_size(paths[0]) for paths in (pose_paths, truth_paths)]

    def read(part):
        return tuple(paths and images.to_float(images.read_images(paths[part], height, width, size))
                     for paths, size in zip((pose_paths, truth_paths), sizes, strict=True))

    return first_frame, first_path.name == pose_paths[0].name, len(pose_paths), read


def predict(args):
    """Generate and write the film and, where the truth is known, the PSNR curve and table beside it.

    The film has a frame for each pose. A pose with the first frame's own name is that frame's: the film then begins
    with the given frame, and the prediction with the next pose. Frames are read, generated and written in parts, so
    memory does not grow with the film.

    Raises:
        InputError: an input is missing or unreadable, or the output cannot be written.
    """
    path, output = Path(args.model) if args.model else newest_model(), Path(args.output)
    _check_output(output, args)
    generate = Generator(path)
    first_frame, given, length, read = _read_input(args, path, generate.height, generate.width)
    if given and length < 2:
        raise InputError("only one pose, and it is the first frame's own; give at least one more")
    films = [generate.film(first_frame, args.seed + k, args.temperature) for k in range(args.samples)]
    names = ["prediction"] if len(films) == 1 else [f"sample {k + 1}" for k in range(len(films))]
    curves = {name: [] for name in (*names, "copy-first")}
    with film_writer(output, args.fps, args.scale) as append, ThreadPoolExecutor(generate.films_at_once) as pool:
        for start in range(int(given), length, PART):
            poses, truth = read(slice(start, start + PART))
            parts = list(pool.map(lambda film: film(poses), films))  # noqa: B023 (all done within this turn)
            if truth is not None:
                still = np.broadcast_to(first_frame, truth.shape)
                for curve, part in zip(curves.values(), (*parts, still), strict=True):
                    curve.append(psnr_per_frame(truth, part))
            if start == given == 1:
                parts = [np.concatenate([first_frame[None], part]) for part in parts]
                before = read(slice(0, 1))
                poses, truth = (after if after is None else np.concatenate([first, after])
                                for first, after in zip(before, (poses, truth), strict=True))
            append(side_by_side(*parts) if truth is None else side_by_side(truth, poses, *parts))
    panel_names = [*(["truth", "pose"] if truth is not None else []), *names]
    print(f"{output}: {length} frames by {path} ({', '.join(panel_names)})")
    if truth is not None:
        _score(output, {name: np.concatenate(curve) for name, curve in curves.items()})


def _check_output(output, args):
    """Refuse an output that cannot be written, or of which a file would replace one of the images to read."""
    inputs = {Path(folder).resolve() for folder in (args.poses, args.truth) if folder not in (None, STUDIO)}
    if not output.suffix and output.exists():
        raise InputError(f"{output}: is there already; choose another --output")
    for path in (output, output.with_suffix(".png"), output.with_suffix(".csv")):
        check_writable(path, "--output")
        if path.exists() and (path.resolve().parent in inputs or args.first_frame
                              and path.resolve() == Path(args.first_frame).resolve()):
            raise InputError(f"{path}: is there already, among the images to read; choose another --output")


def _score(output, curves):
    from cvae_tf.evaluation.plots import psnr_per_frame_png  # Matplotlib is slow to import

    with atomic(output.with_suffix(".png")) as unfinished:
        unfinished.write_bytes(psnr_per_frame_png(curves, f"{output.stem}: free running, z from the prior"))
    write_csv(output.with_suffix(".csv"), *psnr_table(curves))
    means = ", ".join(f"{name} {curve.mean():.2f} dB" for name, curve in curves.items())
    print(f"PSNR, mean of {len(curves['copy-first'])} frames, z from the prior: {means}")
    print(f"Per frame: {output.with_suffix('.png')}, {output.with_suffix('.csv')}")
