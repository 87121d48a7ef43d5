"""The model as a SavedModel that runs without this project's code."""

import keras
import tensorflow as tf

from cvae_tf.files import atomic


def save_model(model, path, config):
    """Write ``model`` as a SavedModel folder at ``path``, with ``config.json`` in it; an old one there is replaced.

    Signatures, with B and T free and H and W those of the training:

    - ``generate``, also ``serving_default``: ``first_frame`` (B, H, W, 3), ``poses`` (B, T, H, W, 3), ``seed`` (2,)
      int32, ``temperature`` () -> ``frames`` (B, T, H, W, 3), the frame of each pose in turn, z from the prior.
    - ``reconstruct``: ``frames`` and ``poses`` (B, T, H, W, 3) -> ``frames`` (B, T-1, H, W, 3), frames 1 to T-1 with z
      from the posterior, which has seen them, and ``kl`` (B, T-1) in nats.

    Frames and poses are float32 in [0, 1].

    Raises:
        InputError: the folder cannot be written.
    """
    size = config.frame_H, config.frame_W, 3
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "generate",
        lambda first_frame, poses, seed, temperature: {
            "frames": model.generate(first_frame, poses, seed, temperature)},
        input_signature=[tf.TensorSpec((None, *size), name="first_frame"),
                         tf.TensorSpec((None, None, *size), name="poses"),
                         tf.TensorSpec((2,), tf.int32, name="seed"),
                         tf.TensorSpec((), name="temperature")])
    archive.add_endpoint(
        "reconstruct",
        lambda frames, poses: dict(zip(("frames", "kl"), model.reconstruct(frames, poses), strict=True)),
        input_signature=[tf.TensorSpec((None, None, *size), name="frames"),
                         tf.TensorSpec((None, None, *size), name="poses")])
    with atomic(path) as unfinished:
        archive.write_out(str(unfinished), verbose=False)
        (unfinished / "config.json").write_text(config.to_json())
