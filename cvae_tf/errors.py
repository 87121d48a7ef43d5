"""The ways in which a program ends early, and what the user sees of them."""

import signal
import sys


class InputError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do about it."""


class Interrupted(BaseException):
    """A signal ended the program in order. No `Exception`, so that nothing takes it for a failure of its own.

    Args:
        message: the line to show.
        number: of the signal.
    """

    def __init__(self, message, number):
        super().__init__(message)
        self.number = number


def run(program):
    """Call ``program()``, and end with one line on stderr where it cannot go on.

    Exit codes: 2 for what the user can mend, 130 for Ctrl-C and 143 for SIGTERM.
    """
    def terminate(number, _):
        raise Interrupted("terminated", number)

    signal.signal(signal.SIGTERM, terminate)  # else nothing would be cleaned up
    try:
        program()
    except InputError as error:
        _end(f"error: {error}", 2)
    except OSError as error:  # a path that the system refuses, wherever it came from
        _end(f"error: {error.filename or 'a file'}: {error.strerror or error}", 2)
    except MemoryError:
        _end("error: out of memory; choose a smaller --batch_size, network or frame size, or fewer frames", 2)
    except KeyboardInterrupt:
        _end("interrupted", 128 + signal.SIGINT)
    except Interrupted as error:
        _end(error, 128 + error.number)


def _end(line, code):
    print(line, file=sys.stderr)
    sys.exit(code)
