"""The one kind of error that is the user's to mend, and how the programs end on it."""

import sys


class InputError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do about it."""


def run(program):
    """Call ``program()``; errors of the user's become one line on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        program()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a path that the system refuses, wherever it came from
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
