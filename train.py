"""Train the conditional VAE: ``python train.py [--preset NAME] [--data_dir ROOT] ...``."""

import sys

from cvae_tf import errors
from cvae_tf.config import parse_train_args


def main():
    config, dry_run, fresh = parse_train_args(sys.argv[1:])
    if dry_run:
        print(config.to_json(), end="")
        return
    from cvae_tf.training.loop import train  # loads TensorFlow: not for --help, --dry_run or a mistyped flag

    train(config, fresh)


if __name__ == "__main__":
    errors.run(main)
