"""The one kind of error that is the user's to mend, and how the programs end on it."""

import sys


class InputError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do about it."""


def run(program):
    """Call ``program()``; an `InputError` becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        program()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
