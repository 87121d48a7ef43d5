"""Early exits of the command-line programs, the one-line messages that users then see, and TensorFlow's own notes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

BROKEN_PIPE = 128 + 13
LONGEST = 2000  # maximum characters of a line; the middle of a longer line is left out

# Text that TensorFlow puts around the cause of an error: before it, the graph node and where it was defined ...
AROUND = re.compile(r'Graph execution error:|\d+ root error|Detected at node|File "|<stack traces unavailable>')
# ... and after the cause, the Python code, the node again, and hints.
AFTER = re.compile(r"\n\s*\[\[|\s\[Op:|\nHint:|\nTraceback \(most recent call last\)")
# A program that holds its input back until a line says whether to show it. Without such a line, the writer has crashed.
HOLDER = r"""
import sys
held, end = [], b"\0show\n"
for line in sys.stdin.buffer:
    held.append(line)
    if line[-6:] in (b"\0hide\n", b"\0show\n"):
        held[-1], end = line[:-6], line[-6:]
        break
if end == b"\0show\n":
    sys.stderr.buffer.write(b"".join(held))
"""
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


@contextlib.contextmanager
def notes_held():
    """Hold back what the block writes to stderr, also from C++, and show it only if the block fails.

    TensorFlow and its interpreter write notes to stderr that tell most users nothing. A second process holds them, so
    that they are shown even if this process crashes or is killed. Ctrl-C, an `InputError` and a closed output are no
    failures. With the environment variable ``TF_CPP_MIN_LOG_LEVEL`` at 0 or 1, nothing is held back.

    Yields:
        An object whose attribute ``show`` says whether to show the notes in any case; False at first.
    """
    notes = types.SimpleNamespace(show=False)
    with contextlib.ExitStack() as stack:
        holder = None
        with contextlib.suppress(OSError):  # stderr is closed, or no process can be started: nothing is held
            if sys.stderr and os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2") not in ("0", "1"):
                stderr = os.dup(2)
                stack.callback(os.close, stderr)
                holder = stack.enter_context(subprocess.Popen(
                    [sys.executable or "", "-ISc", HOLDER], stdin=subprocess.PIPE, bufsize=0,
                    start_new_session=True))  # Ctrl-C does not reach another session
        try:
            if holder:
                os.dup2(holder.stdin.fileno(), 2)
            yield notes
        except Exception as error:
            notes.show |= not isinstance(error, InputError | BrokenPipeError)
            raise
        finally:
            if holder:
                os.dup2(stderr, 2)
                with contextlib.suppress(OSError):
                    holder.stdin.write(b"\0show\n" if notes.show else b"\0hide\n")


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


def program(command):
    """How a user starts ``command`` here: ``python train.py``, ``cvae-tf train`` or ``python -m cvae_tf train``."""
    script = Path(sys.argv[0]).name
    if script == f"{command}.py":
        return f"python {script}"
    return f"{'cvae-tf' if script.startswith('cvae-tf') else 'python -m cvae_tf'} {command}"


def has_cursor():
    """Whether the output is a terminal in which a bar can be redrawn. A notebook sets ``TERM`` to ``xterm-color``."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return terminal and os.environ.get("TERM") not in ("dumb", "xterm-color")


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
