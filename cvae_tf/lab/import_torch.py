"""From a checkpoint of the lab's PyTorch template to a SavedModel.

Used as ``python -m cvae_tf.lab.import_torch epoch=NN.ckpt --out saved_models/NAME [--batch_norm train|inference]``. PyTorch
is needed for this command and for `export_torch` only.
"""

import dataclasses
import sys
from pathlib import Path

from cvae_tf import errors
from cvae_tf.config import PRESETS, Config, normalise_flags, parser_for
from cvae_tf.errors import InputError
from cvae_tf.lab.torch_checkpoint import read_checkpoint


def parse_args(argv):
    """Read the command line.

    Returns:
        ``(args, config)``: the flags, and the configuration of the lab's network at that frame size; its widths are
        still to come from the checkpoint.

    Raises:
        InputError: an unknown flag or a value out of range.
    """
    parser = parser_for("python -m cvae_tf.lab.import_torch", "Turn a checkpoint of the lab's PyTorch template into a "
                        "SavedModel like those of train.py. Nothing in the file is executed.")
    parser.add_argument("checkpoint", help="file that the template's Trainer saved, such as epoch=69.ckpt")
    parser.add_argument("--out", required=True, help="folder of the SavedModel to write")
    parser.add_argument("--batch_norm", default="train", choices=("train", "inference"),
                        help="normalise poses by the batch, as the template always does, or by the running statistics")
    parser.add_argument("--frame_H", type=int, default=32, help="frame height in pixels")
    parser.add_argument("--frame_W", type=int, default=64, help="frame width in pixels")
    args = parser.parse_args(normalise_flags(argv))
    return args, Config(**{**PRESETS["lab"], "preset": "lab", "batch_norm": args.batch_norm, "frame_H": args.frame_H,
                           "frame_W": args.frame_W})


def import_torch(args, config):
    """Read the checkpoint and write the SavedModel.

    Raises:
        InputError: the checkpoint cannot be read or does not fit, or the folder exists or cannot be written.
    """
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; choose another --out or remove it")
    state, settings = read_checkpoint(args.checkpoint)
    from cvae_tf.training.loop import build_network  # isort: skip  # first: it quietens TensorFlow, whose import takes seconds
    from cvae_tf.inference.export import save_model
    from cvae_tf.lab.state_dict import dimensions_of, load_state
    from cvae_tf.model.cvae import CVAE

    try:
        # What the template would go on with; `export_torch` hands it back.
        kept = dict(lr=float(settings.get("lr", config.lr)), tfr=min(1.0, max(0.0, float(settings.get("tfr", 0.0)))),
                    num_epoch=int(settings.get("last_epoch", 0)) + 1)
        config = dataclasses.replace(config, **dimensions_of(state), **kept, lr_schedule="constant", tfr_d_step=0.0)
        model = CVAE(build_network(config))
        load_state(model.network, state)
    except InputError as error:
        raise InputError(f"{args.checkpoint}: {error}") from error
    save_model(model, out, config)
    print(f"{out}: the lab's network with F_dim {config.F_dim}, L_dim {config.L_dim}, N_dim {config.N_dim}, D_out_dim "
          f"{config.D_out_dim}, {model.trainable_parameters:,} trainable parameters, batch norm '{config.batch_norm}'")
    print(f"Next   python predict.py --model {out}")


def main():
    """Command line: ``python -m cvae_tf.lab.import_torch CHECKPOINT --out DIR``."""
    import_torch(*parse_args(sys.argv[1:]))


if __name__ == "__main__":
    errors.run(main)
