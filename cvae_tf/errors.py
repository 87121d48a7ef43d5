"""The ways in which a program ends early, and what the user sees of them."""

import os
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


BROKEN_PIPE = 128 + 13


def run(program):
    """Call ``program()``, and end with one line on stderr where it cannot go on.

    Exit codes: 2 for what the user can mend, 130 for Ctrl-C, 143 for SIGTERM and 141 where nobody reads the output.
    """
    def terminate(number, _):
        raise Interrupted("terminated", number)

    signal.signal(signal.SIGTERM, terminate)  # else nothing would be cleaned up
    try:
        program()
        sys.stdout.flush()
    except InputError as error:
        _end(f"error: {error}", 2)
    except BrokenPipeError:
        stop_printing()
        _end("the output was closed", BROKEN_PIPE)
    except OSError as error:  # a path that the system refuses, wherever it came from
        _end(f"error: {error.filename or 'a file or the output'}: {error.strerror or error}", 2)
    except MemoryError:
        _end("error: out of memory; choose smaller sizes or fewer frames", 2)
    except KeyboardInterrupt:
        _end("interrupted", 128 + signal.SIGINT)
    except Interrupted as error:
        _end(error, 128 + error.number)
    except Exception as error:
        if not type(error).__module__.startswith("tensorflow."):
            raise
        _end(f"error: {in_plain_words(error)}", 2)


def stop_printing():
    """Send what is still printed nowhere, once nobody reads it any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def in_plain_words(error):
    """One line for an error of TensorFlow's own."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(("Graph execution error", "[[", "Detected at"))]
    return (f"TensorFlow stopped: {lines[0] if lines else type(error).__name__}; look for a damaged file, a full disk, "
            "or too little memory for these sizes")


def _end(line, code):
    try:
        print(line, file=sys.stderr)
    except (OSError, ValueError):  # nobody reads that either
        pass
    sys.exit(code)
