"""The model as a SavedModel that runs without Keras and without this package."""

import json
from pathlib import Path

import keras
import tensorflow as tf

from cvae_tf.model.network import weights_by_path


def write(model, path, frame_size=None):
    """Write a `CVAE` as a SavedModel folder at ``path``. It computes in float32 and contains a ``model.json``.

    Signatures, with B and T free, and H and W fixed to the frame size:

    - ``generate``, also ``serving_default``: ``first_frame`` (B, H, W, 3), ``poses`` (B, T, H, W, 3), ``seed`` (2,)
      int32, ``temperature`` () -> ``frames`` (B, T, H, W, 3), one frame for each pose, with z from the prior.
    - ``continue``: ``generate`` from the middle of a film, as `CVAE.continue_film`. The inputs ``context_frame`` and
      ``before`` replace ``first_frame``, and ``start`` () int32 is added -> ``frames`` and ``last``.
    - ``reconstruct``: ``frames`` and ``poses`` (B, T, H, W, 3) -> ``frames`` (B, T-1, H, W, 3), frames 1 to T-1 with z
      from the posterior, which has seen them; ``kl`` (B, T-1) in nats; and the posterior's ``mean`` (B, T-1, h, w, c).

    Frames and poses are float32 in [0, 1].

    Args:
        model: a `CVAE`.
        path: path of the folder.
        frame_size: (height, width) in pixels; None: the size of the frames that the model has seen.

    Raises:
        ValueError: the model has seen no frames, and no size is given; or the network cannot take that size.
    """
    size = frame_size or model.frame_size
    if size is None:
        raise ValueError("frame_size is unknown; expected (height, width) in pixels, since the model has seen no "
                         "frames yet, received None")
    model = _in_float32(model)
    model.network.check_size(*size)
    frame, film = tf.TensorSpec((None, *size, 3)), tf.TensorSpec((None, None, *size, 3))
    seed, temperature, start = tf.TensorSpec((2,), tf.int32), tf.TensorSpec(()), tf.TensorSpec((), tf.int32)

    @tf.function(input_signature=[frame, film, seed, temperature])
    def generate(first_frame, poses, seed, temperature):
        return {"frames": model.generate(first_frame, poses, seed, temperature)}

    @tf.function(input_signature=[frame, frame, film, seed, temperature, start])
    def continue_film(context_frame, before, poses, seed, temperature, start):
        frames, last = model.continue_film(context_frame, before, poses, seed, temperature, start)
        return {"frames": frames, "last": last}

    @tf.function(input_signature=[film, film])
    def reconstruct(frames, poses):
        predictions, kl, mean = model.reconstruct(frames, poses)
        return {"frames": predictions, "kl": kl, "mean": mean}

    module = tf.Module()
    module.weights = {name: variable.value for name, variable in weights_by_path(model.network).items()}
    module.generate, module.reconstruct = generate, reconstruct
    tf.saved_model.save(module, str(path), signatures={
        "generate": generate, "serving_default": generate, "continue": continue_film, "reconstruct": reconstruct})
    about = {"model": model.get_config(), "frame_size": list(size)}
    (Path(path) / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _in_float32(model):
    """The model itself if it computes in float32, else a copy that does: a CPU is slow in 16 bits."""
    network = model.network
    if network.dtype_policy.name == "float32":
        return model
    in_float32 = type(network).from_config(network.get_config() | {"dtype": "float32"})
    copy = type(model).from_config(model.get_config() | {"network": keras.saving.serialize_keras_object(in_float32)})
    copy.network.set_weights(network.get_weights())
    return copy
