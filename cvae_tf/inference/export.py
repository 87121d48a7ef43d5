"""The model as a SavedModel that runs without this project's code; and its weights back into a network."""

from pathlib import Path

import tensorflow as tf

from cvae_tf.errors import InputError
from cvae_tf.files import CHECKSUMS, atomic, check_model, write_checksums

# What an exported model's folder holds.
MODEL_FILES = ("saved_model.pb", "fingerprint.pb", "variables", "assets", "config.json", CHECKSUMS)


def save_model(model, path, config):
    """Write ``model`` as a SavedModel folder at ``path``, with ``config.json`` in it; an old one there is replaced.

    Signatures, with B and T free and H and W those of the training:

    - ``generate``, also ``serving_default``: ``first_frame`` (B, H, W, 3), ``poses`` (B, T, H, W, 3), ``seed`` (2,)
      int32, ``temperature`` () -> ``frames`` (B, T, H, W, 3), the frame of each pose in turn, z from the prior.
    - ``continue``: the same from the middle of a film, as `CVAE.continue_film`: ``context_frame`` and ``before``
      instead of ``first_frame``, and ``start`` () int32 -> ``frames`` and ``last``.
    - ``reconstruct``: ``frames`` and ``poses`` (B, T, H, W, 3) -> ``frames`` (B, T-1, H, W, 3), frames 1 to T-1 with z
      from the posterior, which has seen them, ``kl`` (B, T-1) in nats, and ``mean`` (B, T-1, h, w, c), the posterior's.

    Frames and poses are float32 in [0, 1].

    Raises:
        InputError: the folder cannot be written.
    """
    size = config.frame_H, config.frame_W, 3
    frame, film = tf.TensorSpec((None, *size)), tf.TensorSpec((None, None, *size))

    @tf.function(input_signature=[frame, film, tf.TensorSpec((2,), tf.int32), tf.TensorSpec(())])
    def generate(first_frame, poses, seed, temperature):
        return {"frames": model.generate(first_frame, poses, seed, temperature)}

    @tf.function(input_signature=[frame, frame, film, tf.TensorSpec((2,), tf.int32), tf.TensorSpec(()),
                                  tf.TensorSpec((), tf.int32)])
    def continue_film(context_frame, before, poses, seed, temperature, start):
        frames, last = model.continue_film(context_frame, before, poses, seed, temperature, start)
        return {"frames": frames, "last": last}

    @tf.function(input_signature=[film, film])
    def reconstruct(frames, poses):
        predictions, kl, mean = model.reconstruct(frames, poses)
        return {"frames": predictions, "kl": kl, "mean": mean}

    module = tf.Module()
    module.weights = [weight.value for weight in model.network.weights]
    module.generate, module.reconstruct = generate, reconstruct
    with atomic(path) as unfinished:
        try:
            tf.saved_model.save(module, str(unfinished), signatures={
                "generate": generate, "serving_default": generate, "continue": continue_film,
                "reconstruct": reconstruct})
        except (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError, tf.errors.UnknownError) as error:
            raise InputError(f"{path}: cannot be written ({error.message.rpartition('; ')[2]})") from error
        (unfinished / "config.json").write_text(config.to_json())
        write_checksums(unfinished)


def load_weights(network, path):
    """Give a built network the weights of the exported model at ``path``.

    Raises:
        InputError: there is no such model, it is damaged, or its weights are of other shapes.
    """
    check_model(path)
    try:
        reader = tf.train.load_checkpoint(str(Path(path) / "variables" / "variables"))
        names = [f"weights/{i}/.ATTRIBUTES/VARIABLE_VALUE" for i in range(len(network.weights) + 1)]
        weights = [reader.get_tensor(name) for name in names if reader.has_tensor(name)]
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: its weights cannot be read ({reason}); export it again") from error
    if [weight.shape for weight in weights] != [tuple(weight.shape) for weight in network.weights]:
        raise InputError(f"{path}: its weights are not those of the network in its config.json; it is of another "
                         "version of this program, so train it again, or it was exported wrongly")
    network.set_weights(weights)
