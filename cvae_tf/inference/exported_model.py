"""Exported models: SavedModel folders, loaded without the Python code of their networks."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cvae_tf.config import load_config
from cvae_tf.data.images import to_float
from cvae_tf.errors import InputError, say
from cvae_tf.files import atomic, check_model, plain
from cvae_tf.model.defaults import GENERATION_CHUNK as CHUNK

RUN = "run.json"  # in an exported model's folder: the number of its run, and whether the run has ended
# Largest height * width * channels**2 of a `UNet` that runs faster on one thread: above it, a second thread saves more
# time than waking it takes.
LIGHT = 32 * 64 * 32**2
SIGNATURES = {
    "generate": {"first_frame", "poses", "seed", "temperature"},
    "continue": {"context_frame", "before", "poses", "seed", "temperature", "start"},
    "reconstruct": {"frames", "poses"},
}


class ExportedModel:
    """The exported model in the folder ``path``.

    Methods work on one film: inputs and results are NumPy arrays without a batch axis. Frames and poses are uint8, or
    floats in [0, 1].

    Attributes:
        path: `pathlib.Path` of the folder.
        height, width: size of the frames, in pixels.
        films_at_once: number of films to generate in parallel threads; 1 if TensorFlow itself uses several threads.

    Raises:
        InputError: the folder holds no SavedModel, a damaged one, or a SavedModel without this project's signatures.
    """

    height: int
    width: int

    def __init__(self, path: str | Path):
        self.path = Path(path)
        check_model(path)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf  # slow, so imported only once there is a model to load

        self._tf = tf
        try:
            self._loaded = tf.saved_model.load(str(path))  # kept, because this object owns the variables
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{path}: the SavedModel cannot be loaded ({reason}); copy it again or train a new "
                             "one") from error
        for name, inputs in SIGNATURES.items():
            signature = self._loaded.signatures.get(name)
            if signature is None or set(signature.structured_input_signature[1]) != inputs:
                raise InputError(f"{path}: this SavedModel has no signature '{name}' with the inputs "
                                 f"{', '.join(sorted(inputs))}; train a model with python train.py")
        signature = self._loaded.signatures["generate"]
        self.height, self.width = signature.structured_input_signature[1]["first_frame"].shape[1:3]
        one_thread = tf.config.threading.get_intra_op_parallelism_threads() == 1
        self.films_at_once = os.cpu_count() if one_thread else 1

    def generate(self, first_frame: np.ndarray, poses: np.ndarray, seed: int = 0,
                 temperature: float = 1.0) -> np.ndarray:
        """Generate a film from its first frame and the poses of the frames after it, with z from the prior.

        Args:
            first_frame: (H, W, 3) uint8, or floats in [0, 1].
            poses: (T, H, W, 3) uint8, or floats in [0, 1]; one pose for each frame to generate.
            seed: seed of the latents, an int from 0 to 2**31 - 1. The same seed gives the same film.
            temperature: factor on the deviation of z from the prior's mean; 0 sets z to the mean.

        Returns:
            (T, H, W, 3) float32 in [0, 1], one frame for each pose.

        Raises:
            InputError: an array has a wrong shape or type, or values outside [0, 1].
        """
        images = self._checked(first_frame=first_frame) | self._checked("T", poses=poses)
        return self._run("generate", images, seed=[0, seed], temperature=temperature)["frames"]

    def film(self, first_frame: np.ndarray, seed: int = 0,
             temperature: float = 1.0) -> Callable[[np.ndarray], np.ndarray]:
        """Begin a film that is generated in parts, so that memory does not grow with the length of the film.

        Args:
            first_frame, seed, temperature: as for `generate`.

        Returns:
            A function from the next n poses, (n, H, W, 3), to their frames, (n, H, W, 3) float32 in [0, 1]. In all
            parts but the last, n must be a multiple of `CHUNK`. Together, the parts equal the film from `generate`.
        """
        context = previous = self._checked(first_frame=first_frame)["first_frame"]
        start = 0

        def extend(poses):
            nonlocal previous, start
            images = {"context_frame": context, "before": previous}  # not clipped to [0, 1], so not checked
            part = self._continue(images, poses, seed, temperature, start)
            previous, start = part["last"], start + len(poses)
            return part["frames"]

        return extend

    def continue_film(self, context_frame: np.ndarray, before: np.ndarray, poses: np.ndarray, seed: int = 0,
                      temperature: float = 1.0, start: int = 0) -> np.ndarray:
        """Continue a film from any frame.

        Args:
            context_frame: (H, W, 3), the first frame of the film, uint8 or floats in [0, 1].
            before: (H, W, 3), the frame before the frames to generate, uint8 or floats in [0, 1].
            poses: (T, H, W, 3) uint8, or floats in [0, 1]; one pose for each frame to generate.
            seed, temperature: as for `generate`.
            start: number of frames generated before, a multiple of `CHUNK`.

        Returns:
            (T, H, W, 3) float32 in [0, 1]. If ``before`` is the frame that `generate` gives there (``context_frame`` at
            ``start`` 0), the frames are those from `generate`, but for values that `generate` clips only in its result.

        Raises:
            InputError: an array has a wrong shape or type, or values outside [0, 1]; or ``start`` is no multiple of
                `CHUNK`.
        """
        images = self._checked(context_frame=context_frame, before=before)
        return self._continue(images, poses, seed, temperature, start)["frames"]

    def _continue(self, images, poses, seed, temperature, start):
        if start % CHUNK:
            raise InputError(f"a part of a film must begin after a multiple of {CHUNK} frames, received a part after "
                             f"{start} frames")
        images = images | self._checked("T", poses=poses)
        return self._run("continue", images, seed=[0, seed], temperature=temperature, start=start)

    def reconstruct(self, frames: np.ndarray, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reconstruct frames 1 to T-1 with z from the posterior.

        The posterior sees the frame to predict, so the result says nothing about the quality of real predictions.

        Args:
            frames, poses: (T, H, W, 3) uint8, or floats in [0, 1].

        Returns:
            ``(predictions, kl, mean)``, all float32: frames (T-1, H, W, 3) in [0, 1]; KL divergence (T-1,) in nats; and
            the posterior's mean (T-1, h, w, c), with the latent's height, width and channels.

        Raises:
            InputError: an array has a wrong shape or type, or values outside [0, 1].
        """
        output = self._run("reconstruct", self._checked("T", frames=frames, poses=poses))
        return output["frames"], output["kl"], output["mean"]

    def _run(self, name, images, **others):
        """Call the signature ``name`` on a batch of one film."""
        tf, signature = self._tf, self._loaded.signatures[name]
        specs = signature.structured_input_signature[1]
        inputs = {key: value[None] for key, value in images.items()} | others
        outputs = signature(**{key: tf.constant(value, specs[key].dtype) for key, value in inputs.items()})
        return {key: value[0].numpy() for key, value in outputs.items()}

    def _checked(self, *time, **images):
        """Check images of shape (*time, H, W, 3), and return them by name as float32 in [0, 1]."""
        expected = (*time, self.height, self.width, 3)
        for name, image in images.items():
            image = np.asarray(image)
            if image.ndim != len(expected) or image.shape[-3:] != expected[-3:]:
                raise InputError(f"{name} must have the shape ({', '.join(map(str, expected))}), received "
                                 f"{image.shape}")
            if image.dtype == np.uint8:
                images[name] = to_float(image)
            elif not np.issubdtype(image.dtype, np.floating) or not (0 <= image.min() and image.max() <= 1):
                raise InputError(f"{name} must be uint8, or floats in [0, 1], received {image.dtype} from "
                                 f"{image.min()} to {image.max()}")
        return images


def use_one_thread_if_light(path):
    """Limit TensorFlow to one thread in the whole process if the exported model at ``path`` is then faster.

    A small `UNet` on a CPU is faster: each operation takes longer on several threads, and several films can be
    generated in parallel instead. For command lines, before TensorFlow has started; later calls do nothing.
    """
    if not _is_light(path):
        return
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # TensorFlow has already started
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(-1)  # run all operations in the caller's thread


def _is_light(path):
    """Whether the operations of the exported model at ``path`` are too small to gain from several threads."""
    try:
        description = json.loads((Path(path) / "model.json").read_text())
        network, (height, width) = description["model"]["network"], description["frame_size"]
        return network["class_name"] == "UNet" and height * width * network["config"]["width"]**2 <= LIGHT
    except Exception:  # another program's model, or no model: loading will report it
        return False


def write_owner(folder, run, finished):
    """Record in the folder of an exported model which run the model belongs to.

    Args:
        folder: folder of the exported model.
        run: number of the run, a string.
        finished: whether the run has ended normally; until then the model may be half trained.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic(Path(folder) / RUN) as unfinished:
        unfinished.write_text(json.dumps({"run": run, "finished": finished}) + "\n")


def owner_of(folder):
    """Read the record of `write_owner`: ``(run, finished)``, or ``(None, True)`` for a model that belongs to no run.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(folder) / RUN
    try:
        content = json.loads(plain(path).read_text(encoding="utf-8"))
        run, finished = content["run"], content["finished"]
        if not isinstance(run, str) or not isinstance(finished, bool):
            raise ValueError("other types")
        return run, finished
    except FileNotFoundError:
        return None, True
    except Exception as error:
        raise InputError(f"{path}: must say of which run this model is ({error}); put the file back, or remove it if "
                         "no run is to continue with this model") from error


def newest_model(folder="saved_models"):
    """The most recently written exported model in ``folder``; if there is none, the model of the package.

    Models of unfinished runs and of the preset ``debug`` are left out.

    Returns:
        The model's folder, a `pathlib.Path`.

    Raises:
        InputError: there is no such model.
    """
    models = sorted(Path(folder).glob("[!.]*/saved_model.pb"), key=lambda path: path.stat().st_mtime)
    models = [path for path in models if _is_done(path.parent)]
    package = Path(__file__).resolve().parent.parent
    roots = package.parent, package  # the first in a clone, the second in an installed wheel
    shipped = [root / "saved_models" / "studio" / "saved_model.pb" for root in roots]
    models = [path for path in shipped if path.is_file()] + models
    if not models:
        raise InputError(f"{folder}: no SavedModel of a finished run in this folder; train one with python train.py, "
                         "or give --model")
    return models[-1].parent


def _is_done(model):
    """Whether a model may be chosen by default: its run has ended and was not a ``debug`` run."""
    config = model / "config.json"
    try:
        return owner_of(model)[1] and not (config.exists() and load_config(config).preset == "debug")
    except InputError:  # damaged, or of another version; users can still name it explicitly
        return False


def open_model(model, chosen=False):
    """Print a line that names the model of a command, and return its `ExportedModel`.

    Args:
        model: folder of an exported model, or an `ExportedModel`.
        chosen: whether the model comes from `newest_model` and was not named by the user.

    Raises:
        InputError: as for `ExportedModel`.
    """
    model = ExportedModel(model) if isinstance(model, str | Path) else model
    say(f"Model {model.path}" + (" (the newest that is finished; --model takes another)" if chosen else ""))
    return model


def folder_of(model):
    """The folder of an exported model; ``model`` is a path or an `ExportedModel`."""
    return Path(getattr(model, "path", model))
