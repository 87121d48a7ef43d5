"""Write a model as a SavedModel folder, and load the weights of such a folder into a network."""

import dataclasses
from pathlib import Path

import tensorflow as tf

from cvae_tf.errors import InputError
from cvae_tf.files import CHECKSUMS, atomic, check_model, write_checksums
from cvae_tf.inference.exported_model import RUN, write_owner
from cvae_tf.inference.origin import FIRST_FRAME, FOOTAGE, write_origin
from cvae_tf.model.unet import UNet

# Names of the files and folders in the folder of an exported model.
MODEL_FILES = ("saved_model.pb", "fingerprint.pb", "variables", "assets", "model.json", "config.json", CHECKSUMS,
               RUN, FIRST_FRAME, FOOTAGE)
PREFIX, SUFFIX = "weights/", "/.ATTRIBUTES/VARIABLE_VALUE"  # around a weight's name in its checkpoint key


def save_model(model, path, config=None, run=None, origin=None):
    """Write ``model`` to the folder ``path`` with `CVAE.export`, whole or not at all, with checksums.

    Args:
        model: a `CVAE`.
        path: folder to write; an exported model there is replaced.
        config: the `Config` of the run that trained the model, written as ``config.json``; None: not written.
        run: number of that run, written to ``run.json``; `write_owner` later records there that the run has ended.
            None: no ``run.json`` is written.
        origin: `Origin` of the training footage, kept beside the model; None: nothing is kept.

    Raises:
        InputError: the folder cannot be written, or ``config`` describes another network.
    """
    if config is not None:
        _check_config(model.network, config)
    with atomic(path) as unfinished:
        try:
            model.export(unfinished, frame_size=config and (config.frame_H, config.frame_W))
        except (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError, tf.errors.UnknownError) as error:
            raise InputError(f"{path}: cannot be written ({error.message.rpartition('; ')[2]})") from error
        if config is not None:
            (unfinished / "config.json").write_text(config.to_json())
        if origin is not None:
            write_origin(unfinished, origin)
        write_checksums(unfinished)
        if run is not None:
            write_owner(unfinished, run, finished=False)


def _check_config(network, config):
    made_of = network.get_config()
    settings = dataclasses.asdict(config)
    for name in made_of.keys() & settings.keys():
        if made_of[name] != settings[name]:
            raise InputError(f"config must be that of the model's network, with {name} {made_of[name]}, received "
                             f"{name} {settings[name]}")
    if isinstance(network, UNet) != (config.network == "unet"):
        raise InputError(f"config must be that of the model's network, {type(network).__name__}, received network "
                         f"'{config.network}'")


def load_weights(network, path):
    """Load the weights of the exported model at ``path`` into a network, matched by name (`Network.named_weights`).

    Raises:
        InputError: there is no exported model, the model is damaged, or its weights have other names or shapes.
    """
    check_model(path)
    try:
        reader = tf.train.load_checkpoint(str(Path(path) / "variables" / "variables"))
        keys = [key for key in reader.get_variable_to_shape_map() if key.startswith(PREFIX) and key.endswith(SUFFIX)]
        saved = {_name_of(key): reader.get_tensor(key) for key in keys}
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: its weights cannot be read ({reason}); export the model again") from error
    weights = network.named_weights()
    if saved and all(name.isdecimal() for name in saved):
        raise InputError(f"{path}: its weights have numbers instead of names, since an earlier version of this program "
                         "exported it; train the model again")
    for name in sorted(weights.keys() ^ saved.keys()):
        has, lacks = ("the network", "the exported model") if name in weights else ("the exported model", "the network")
        raise InputError(f"{path}: holds the weights of another network: {has} has {name}, {lacks} has not")
    for name, weight in weights.items():
        if tuple(weight.shape) != saved[name].shape:
            raise InputError(f"{path}: holds the weights of another network: {name} has the shape {saved[name].shape}, "
                             f"expected {tuple(weight.shape)}")
    for name, weight in weights.items():
        weight.assign(saved[name])


def _name_of(key):
    """The name of a weight (a path) from its checkpoint key, in which TensorFlow writes ``.S`` for ``/``."""
    return key.removeprefix(PREFIX).removesuffix(SUFFIX).replace(".S", "/")
