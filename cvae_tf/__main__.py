"""Entry point of ``python -m cvae_tf COMMAND``."""

from cvae_tf.cli import main

main()
