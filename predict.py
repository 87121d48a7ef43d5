"""Generate a GIF: ``python predict.py [--model saved_models/NAME --first_frame F.png --poses FOLDER] ...``."""

import sys

from cvae_tf import errors
from cvae_tf.inference.predict import parse_args, predict
from cvae_tf.lab.submission import predict_split


def main():
    args = parse_args(sys.argv[1:])
    predict(args) if args.data_dir is None else predict_split(args)


if __name__ == "__main__":
    errors.run(main)
