"""Generate a film: ``python predict.py [--model saved_models/NAME --first_frame F.png --poses FOLDER] ...``."""

import sys

from cvae_tf import cli

if __name__ == "__main__":
    cli.main(["predict", *sys.argv[1:]])
