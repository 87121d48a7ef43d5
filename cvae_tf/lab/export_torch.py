"""The way back: from a SavedModel of the lab's network to a checkpoint that the lab's PyTorch template loads.

Used as ``python -m cvae_tf.lab.export_torch --model saved_models/NAME --out epoch=NN.ckpt``.
"""

import re
import sys
from pathlib import Path

from cvae_tf import errors
from cvae_tf.config import load_config, normalise_flags, parser_for
from cvae_tf.errors import InputError
from cvae_tf.lab.torch_checkpoint import import_pytorch, write_checkpoint
from cvae_tf.model.schedules import milestone_factor, teacher_forcing_ratio


def parse_args(argv):
    """Read the command line.

    Raises:
        InputError: an unknown or missing flag.
    """
    parser = parser_for("python -m cvae_tf.lab.export_torch", "Write a checkpoint for the lab's PyTorch template from a "
                        "SavedModel of the lab's network.")
    parser.add_argument("--model", required=True, help="folder of a SavedModel trained with --network lab")
    parser.add_argument("--out", required=True, help="file to write, such as epoch=69.ckpt, which names its epoch")
    return parser.parse_args(normalise_flags(argv))


def export_torch(args):
    """Read the SavedModel and write the checkpoint, with the teacher-forcing ratio and learning rate of its epoch.

    The rate of a cosine is given as its highest, since the template knows no cosine.

    Raises:
        InputError: the model is missing or is not the lab's network, PyTorch is missing, or the file exists already or
            cannot be written.
    """
    model, out = Path(args.model), Path(args.out)
    if out.exists():
        raise InputError(f"{out}: exists already; choose another --out or remove it")
    config = load_config(model / "config.json")
    if config.network != "lab":
        raise InputError(f"{model}: its network is '{config.network}'; the template loads only the lab's")
    import_pytorch()  # rather now than after TensorFlow
    from cvae_tf.training.loop import build_network  # isort: skip  # first: it quietens TensorFlow, whose import takes seconds
    from cvae_tf.inference.export import load_weights
    from cvae_tf.lab.state_dict import state_of

    network = build_network(config)
    load_weights(network, model)
    number = re.search(r"epoch=(\d+)", out.name)
    last_epoch = int(number[1]) if number else config.num_epoch - 1
    tfr = teacher_forcing_ratio(last_epoch, config.tfr, config.tfr_sde, config.tfr_d_step)
    lr = config.lr * (milestone_factor(last_epoch) if config.lr_schedule == "milestones" else 1)
    write_checkpoint(out, state_of(network), lr, tfr, last_epoch)
    print(f"{out}: state_dict of {len(network.weights)} tensors, lr {lr:g}, tfr {tfr:g}, last_epoch {last_epoch}")


def main():
    """Command line: ``python -m cvae_tf.lab.export_torch --model DIR --out FILE``."""
    export_torch(parse_args(sys.argv[1:]))


if __name__ == "__main__":
    errors.run(main)
