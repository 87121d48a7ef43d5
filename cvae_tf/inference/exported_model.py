"""Exported models: SavedModel folders, loaded without the Python code of the networks in them."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np

from cvae_tf.config import load_config
from cvae_tf.data.images import to_float
from cvae_tf.errors import InputError, say
from cvae_tf.files import atomic, check_model, plain
from cvae_tf.model.defaults import GENERATION_CHUNK as CHUNK

RUN = "run.json"  # in the folder of a run's exported model: of which run it is, and whether that has ended
# Largest height * width * squared channels of a `UNet` whose operations a second thread slows down: waking the thread
# takes longer than the operation.
LIGHT = 32 * 64 * 32**2
SIGNATURES = {
    "generate": {"first_frame", "poses", "seed", "temperature"},
    "continue": {"context_frame", "before", "poses", "seed", "temperature", "start"},
    "reconstruct": {"frames", "poses"},
}


class ExportedModel:
    """The exported model in the folder ``path``.

    Frames and poses of one film, without a batch axis, go in and come out as NumPy arrays. Inputs are uint8, or floats
    in [0, 1].

    Attributes:
        path: `pathlib.Path` of the folder.
        height, width: of the frames, in pixels.
        films_at_once: number of films to generate in parallel threads; 1 where TensorFlow itself uses several threads.

    Raises:
        InputError: the folder holds no SavedModel, a damaged one, or one without the signatures of this project.
    """

    def __init__(self, path):
        self.path = Path(path)
        check_model(path)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf  # slow, so not before there is a model to load

        self._tf = tf
        try:
            self._loaded = tf.saved_model.load(str(path))  # kept, because it owns the variables
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

    def generate(self, first_frame, poses, seed=0, temperature=1.0):
        """Generate a film from its first frame and the poses of the frames after it, with z from the prior.

        Args:
            first_frame: (H, W, 3) uint8, or floats in [0, 1].
            poses: (T, H, W, 3), likewise.
            seed: int from 0 to 2**31 - 1, of the latents. The same seed gives the same film.
            temperature: factor on the deviation of z from the prior's mean; 0 sets z to that mean.

        Returns:
            (T, H, W, 3) float32 in [0, 1], one frame for each pose.

        Raises:
            InputError: an array has a wrong shape or type, or values outside [0, 1].
        """
        images = self._checked(first_frame=first_frame) | self._checked("T", poses=poses)
        return self._run("generate", images, seed=[0, seed], temperature=temperature)["frames"]

    def film(self, first_frame, seed=0, temperature=1.0):
        """Begin a film to be generated in parts, so that memory does not grow with its length.

        Args:
            first_frame, seed, temperature: as for `generate`.

        Returns:
            A function: the next n poses (n, H, W, 3) -> their frames (n, H, W, 3) float32 in [0, 1]. In all parts but
            the last, n must be a multiple of `CHUNK`. The parts equal those of a film generated at once.
        """
        context = previous = self._checked(first_frame=first_frame)["first_frame"]
        start = 0

        def extend(poses):
            nonlocal previous, start
            if start % CHUNK:
                raise InputError(f"a part of a film must begin after a multiple of {CHUNK} frames, received a part "
                                 f"after {start} frames")
            images = {"context_frame": context, "before": previous} | self._checked("T", poses=poses)
            part = self._run("continue", images, seed=[0, seed], temperature=temperature, start=start)
            previous, start = part["last"], start + len(poses)
            return part["frames"]

        return extend

    def reconstruct(self, frames, poses):
        """Predict frames 1 to T-1 with z from the posterior, which sees the frame to predict; not a prediction score.

        Args:
            frames, poses: (T, H, W, 3) uint8, or floats in [0, 1].

        Returns:
            ``(predictions, kl, mean)``, all float32: (T-1, H, W, 3) in [0, 1]; (T-1,) in nats; and the posterior's
            mean (T-1, h, w, c).

        Raises:
            InputError: an array has a wrong shape or type, or values outside [0, 1].
        """
        output = self._run("reconstruct", self._checked("T", frames=frames, poses=poses))
        return output["frames"], output["kl"], output["mean"]

    def _run(self, name, images, **others):
        """Call a signature on a batch of one film."""
        tf, signature = self._tf, self._loaded.signatures[name]
        specs = signature.structured_input_signature[1]
        inputs = {key: value[None] for key, value in images.items()} | others
        outputs = signature(**{key: tf.constant(value, specs[key].dtype) for key, value in inputs.items()})
        return {key: value[0].numpy() for key, value in outputs.items()}

    def _checked(self, *time, **images):
        """Images (*time, H, W, 3) by name, as float32 in [0, 1]."""
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
    """Give TensorFlow one thread in this whole process, where that makes the exported model at ``path`` faster.

    That is so for a small `UNet` on a CPU: each of its operations takes longer on several threads, while several films
    can be generated in parallel. For command lines, before TensorFlow has done any work; later calls do nothing.
    """
    if not _is_light(path):
        return
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # TensorFlow is at work already
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(-1)  # all operations in the caller's thread


def _is_light(path):
    """Whether the operations of the exported model at ``path`` are too small to be shared between threads."""
    try:
        description = json.loads((Path(path) / "model.json").read_text())
        network, (height, width) = description["model"]["network"], description["frame_size"]
        return network["class_name"] == "UNet" and height * width * network["config"]["width"]**2 <= LIGHT
    except Exception:  # another program's model, or none: loading it will say so
        return False


def write_owner(folder, run, finished):
    """Write into the folder of an exported model which run it belongs to.

    Args:
        folder: of the exported model.
        run: number of the run, a string.
        finished: whether the run has ended in good order; until then the model may be half trained.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic(Path(folder) / RUN) as unfinished:
        unfinished.write_text(json.dumps({"run": run, "finished": finished}) + "\n")


def owner_of(folder):
    """What `write_owner` wrote: ``(run, finished)``; ``(None, True)`` for a model that belongs to no run.

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
    """The exported model in ``folder`` that was written last, else the one that comes with the package.

    Models of runs that have not ended, and of the preset ``debug``, are left out.

    Returns:
        A `pathlib.Path`.

    Raises:
        InputError: there is none.
    """
    models = sorted(Path(folder).glob("[!.]*/saved_model.pb"), key=lambda path: path.stat().st_mtime)
    models = [path for path in models if _is_done(path.parent)]
    package = Path(__file__).resolve().parent.parent
    roots = package.parent, package  # of a clone, of a wheel
    shipped = [root / "saved_models" / "studio" / "saved_model.pb" for root in roots]
    models = [path for path in shipped if path.is_file()] + models
    if not models:
        raise InputError(f"{folder}: no SavedModel of a finished run in this folder; train one with python train.py, "
                         "or give --model")
    return models[-1].parent


def _is_done(model):
    """Whether a model is fit to be chosen unasked: its run has ended, and was no ``debug`` run."""
    config = model / "config.json"
    try:
        return owner_of(model)[1] and not (config.exists() and load_config(config).preset == "debug")
    except InputError:  # damaged, or of another version; whoever wants it can name it
        return False


def open_model(model, chosen=False):
    """The `ExportedModel` of a command, after a line that names it.

    Args:
        model: folder of an exported model, or an `ExportedModel`.
        chosen: whether it is the `newest_model`, and not one that the user named.

    Raises:
        InputError: as for `ExportedModel`.
    """
    model = ExportedModel(model) if isinstance(model, str | Path) else model
    say(f"Model {model.path}" + (" (the newest that is finished; --model takes another)" if chosen else ""))
    return model


def folder_of(model):
    """The folder of an exported model, given as a path or as an `ExportedModel`."""
    return Path(getattr(model, "path", model))
