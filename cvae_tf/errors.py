"""Early exits of the command-line programs, and the one-line messages that users then see."""

import os
import re
import signal
import sys

BROKEN_PIPE = 128 + 13
LONGEST = 2000  # maximum characters of a line; the middle of a longer line is left out

# Text that TensorFlow puts around the cause of an error: before it, the graph node and where it was defined ...
AROUND = re.compile(r'Graph execution error:|\d+ root error|Detected at node|File "|<stack traces unavailable>')
# ... and after the cause, the Python code, the node again, and hints.
AFTER = re.compile(r"\n\s*\[\[|\s\[Op:|\nHint:|\nTraceback \(most recent call last\)")
UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # refused in names: control characters and undecodable bytes
NO_MEMORY = re.compile(r"OOM when|out of memory|(to|not|n't) allocate|bad_alloc|Dst tensor is not initialized", re.I)


class InputError(ValueError):
    """Bad input. The message is one line: what is invalid, what was expected, and what was received or can be done.

    The message may contain untrusted names, so it is passed through `printable`.
    """

    def __init__(self, message):
        super().__init__(printable(message))


class Interrupted(BaseException):
    """A signal ended the program cleanly. Not an `Exception`, so that no handler takes it for a failure.

    Args:
        message: the line to show.
        number: number of the signal.
    """

    def __init__(self, message, number):
        super().__init__(message)
        self.number = number


def run(program):
    """Call ``program()`` and turn an early end into one line on stderr and an exit code.

    Exit codes: 2 for an error that the user can correct, 130 after Ctrl-C, 143 after SIGTERM, and 141 if the
    program that reads the output has closed the pipe. Programming errors keep their traceback.
    """
    def terminate(number, _):
        raise Interrupted("terminated", number)

    signal.signal(signal.SIGTERM, terminate)  # the default action would skip all clean-up
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a closed stream is None, and notebooks replace the streams
            stream.reconfigure(errors="backslashreplace")  # for names with undecodable bytes
    try:
        program()
        print(end="", flush=True)
    except InputError as error:
        _end(f"error: {error}", 2)
    except BrokenPipeError:
        stop_printing()
        _end("the output was closed", BROKEN_PIPE)
    except OSError as error:  # the operating system refused some path
        _end(f"error: {error.filename or 'a file or the output'}: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        _end("interrupted", 128 + signal.SIGINT)
    except Interrupted as error:
        _end(error, 128 + error.number)
    except Exception as error:
        if not isinstance(error, MemoryError) and not type(error).__module__.startswith("tensorflow."):
            raise
        _end(f"error: {in_plain_words(error)}", 2)


def stop_printing():
    """Discard all further output; for use after the reader has closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def printable(text):
    r"""``text`` as one line that is safe to print on a terminal.

    Line breaks, control characters, marks that change the text direction, and undecodable bytes are replaced by
    their escape codes, such as ``\n``, ``\x1b``, ``\u202e`` and ``\udcff``.
    """
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half - 3]} ... {line[2 - half:]}"


def check_name(name, flag):
    """Refuse a flag's value that holds control characters, or bytes that are no UTF-8, on which TensorFlow fails.

    Raises:
        InputError: ``name`` holds such characters.
    """
    if UNFIT.search(name):
        raise InputError(f"{flag} must be UTF-8 text without control characters, received {name}")


def say(line):
    """Print a line at once, made `printable`."""
    print(printable(line), flush=True)


def in_plain_words(error):
    """Describe the cause of a `MemoryError`, or of an error raised by TensorFlow, in one line."""
    lines = [re.sub(r"{{.*?}}", "", line).strip() for line in AFTER.split(str(error))[0].splitlines()]
    cause = " ".join(line for line in lines if line and not AROUND.match(line)) or type(error).__name__
    if isinstance(error, MemoryError) or NO_MEMORY.search(cause):
        return (f"out of memory ({cause}); lower --batch_size, --train_vi_len, --width or the size of the frames, or "
                "free memory")
    return f"TensorFlow stopped: {cause}"


def _end(line, code):
    try:
        print(printable(line), file=sys.stderr)
    except (OSError, ValueError):  # stderr is closed as well
        pass
    sys.exit(code)
