"""Damage to files as hypothesis draws it, and the one property that every reader has: the true result or one line."""

import contextlib
import signal
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings

from cvae_tf.errors import InputError

EXAMPLES = settings.default.max_examples
FILES = 10_000 if EXAMPLES > 1000 else EXAMPLES  # mutated files for each reader; more than other properties need
SECONDS = 10

PLACES = st.one_of(st.integers(0, 255), st.integers(-256, -1), st.integers(0, 2**31))  # headers and ends more often
LENGTHS = st.one_of(st.integers(1, 16), st.integers(1, 4096))
NUMBERS = st.sampled_from([value.to_bytes(size, order, signed=value < 0) for order in ("little", "big")
                           for size in (2, 4, 8) for value in (0, 1, -1, 2**(8 * size - 1) - 1, -2**(8 * size - 1))])
CHANGES = (
    st.tuples(st.just("flip"), PLACES, st.integers(0, 7)), st.tuples(st.just("cut"), PLACES),
    st.tuples(st.just("double"), PLACES, LENGTHS), st.tuples(st.just("zero"), PLACES, LENGTHS),
    st.tuples(st.just("remove"), PLACES, LENGTHS), st.tuples(st.just("move"), PLACES, LENGTHS, PLACES),
    st.tuples(st.just("write"), PLACES, NUMBERS), st.tuples(st.just("insert"), PLACES, st.binary(max_size=16)))
CELLS = ("", " ", "0", "-1", "1.5", "nan", "inf", "1e999", "9" * 25, "9" * 5000, "true", "null", "\"", "\"x\"", "[]",
         "{}", "[" * 3000, "\0", "\ufeff", "\u2028", "\x1b[31m", "\n", "\r", ",", ":", "\udcff", "/", "..")


def damage(*words):
    """Strategy for one to three changes to make with `damaged`.

    Args:
        words: pieces of text that the file may hold, each of which is exchanged for one of `CELLS` at times.
    """
    swap = st.tuples(st.just("swap"), st.integers(0, 99), st.sampled_from(words or ("",)), st.sampled_from(CELLS))
    return st.lists(st.one_of(*CHANGES, *[swap] * (3 if words else 0)), min_size=1, max_size=3)


def damaged(content, changes):
    """``content`` with each of ``changes`` made to it."""
    content = bytearray(content)
    for kind, place, *more in changes:
        at = place % max(1, len(content))
        if kind == "flip" and content:
            content[at] ^= 1 << more[0]
        elif kind == "cut":
            del content[at:]
        elif kind == "double":
            content[at:at] = content[at:at + more[0]]
        elif kind == "zero":
            content[at:at + more[0]] = bytes(len(content[at:at + more[0]]))
        elif kind == "remove":
            del content[at:at + more[0]]
        elif kind == "move":
            there = more[1] % max(1, len(content))
            content[at:at + more[0]] = content[there:there + more[0]]
        elif kind == "write":
            content[at:at + len(more[0])] = more[0]
        elif kind == "insert":
            content[at:at] = more[0]
        elif kind == "swap":
            old, new = (text.encode("utf-8", "surrogateescape") for text in more)
            parts = bytes(content).split(old)
            if len(parts) > 1:
                cut = place % (len(parts) - 1) + 1
                content = bytearray(old.join(parts[:cut]) + new + old.join(parts[cut:]))
    return bytes(content)


def outcome(read, *args, **options):
    """What ``read`` returns, or None where it refuses with one line; in seconds, and without any other error."""
    def late(*_):
        pytest.fail(f"no result within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return read(*args, **options)
    except InputError as error:
        assert str(error) and len(str(error).splitlines()) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def in_memory():
    """A folder that is no disk, where there is such a thing."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)
