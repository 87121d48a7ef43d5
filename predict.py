"""Generate a GIF: ``python predict.py [--model saved_models/NAME --first_frame F.png --poses FOLDER] ...``."""

import sys

from cvae_tf import errors
from cvae_tf.prediction import parse_args, predict


def main():
    predict(parse_args(sys.argv[1:]))


if __name__ == "__main__":
    errors.run(main)
