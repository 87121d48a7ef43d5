"""How a program of the project ends early, and the one line that its user then sees."""

import os
import signal
import sys

BROKEN_PIPE = 128 + 13


class InputError(ValueError):
    """Bad input. The message is one line: what is invalid, what was expected, and what was received or can be done."""


class Interrupted(BaseException):
    """A signal ended the program in good order. Not an `Exception`, so that no handler takes it for a failure.

    Args:
        message: the line to show.
        number: number of the signal.
    """

    def __init__(self, message, number):
        super().__init__(message)
        self.number = number


def run(program):
    """Call ``program()`` and turn an early end into one line on stderr and an exit code.

    Exit codes: 2 for an error that the user can correct, 130 after Ctrl-C, 143 after SIGTERM, and 141 if the reader of
    the output has gone. Programming errors keep their traceback.
    """
    def terminate(number, _):
        raise Interrupted("terminated", number)

    signal.signal(signal.SIGTERM, terminate)  # the default action would skip all clean-up
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
    """Discard all further output; for use once nobody reads it any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def in_plain_words(error):
    """Summarise an error raised by TensorFlow in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(("Graph execution error", "[[", "Detected at"))]
    return (f"TensorFlow stopped: {lines[0] if lines else type(error).__name__}; look for a damaged file, a full disk, "
            "or too little memory for these sizes")


def _end(line, code):
    try:
        print(line, file=sys.stderr)
    except (OSError, ValueError):  # stderr is closed as well
        pass
    sys.exit(code)
