"""Train the conditional VAE: ``python train.py [--preset NAME] [--data_dir ROOT] ...``."""

import sys

from cvae_tf import cli

if __name__ == "__main__":
    cli.main(["train", *sys.argv[1:]])
