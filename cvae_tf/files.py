"""Atomic writing, locks, path checks, checksums and CSV tables.

A file is always either the old or the new version, never half-written. Files that the program did not make stay as
they are, unless the user asks to overwrite them.
"""

import csv
import hashlib
import os
import re
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from cvae_tf.errors import InputError, say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CHECKSUMS = "checksums.txt"
MARK = b"made by cvae_tf"  # written into films and plots, so that the program may replace them
LITTER = {".DS_Store", ".ipynb_checkpoints", "Thumbs.db", "desktop.ini"}  # made by file managers and notebooks
# Caches, locks, work that goes on later, and unfinished files.
OWN_NAME = re.compile(r"\.cvae_tf_cache|\..+\.(lock|prepare)|\.(?P<of>.+)\.\d+\.(?P<kind>tmp|old)")


@contextmanager
def atomic(path):
    """Write a file or a folder under a temporary name, and rename the result to ``path`` on success.

    Use as ``with atomic(path) as unfinished:``. Missing parent folders are made; a file or folder at ``path`` is
    replaced. The content is flushed to the disk before the renaming, so that a power cut leaves no empty file.

    Yields:
        The temporary path, in the same folder as ``path``.

    Raises:
        InputError: the file or folder cannot be written.
    """
    path = Path(path).absolute()
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            _replace(unfinished, path)
        finally:
            _remove(unfinished)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _replace(unfinished, path):
    for below in [*unfinished.rglob("*"), unfinished]:
        _flush(below)
    replaced = None
    if unfinished.is_dir() and path.is_dir():  # a non-empty folder cannot be replaced by renaming; see `clean_up`
        replaced = path.rename(path.with_name(f".{path.name}.{os.getpid()}.old"))
    os.replace(unfinished, path)
    _flush(path.parent)
    if replaced:
        _remove(replaced)


def _flush(path):
    """Wait until the content of a file, or the list of files in a folder, is on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows does not open folders
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some network drives cannot flush a folder
            raise
    finally:
        os.close(handle)


def _remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def clean_up(folder, name=None, older_than=0):
    """Clean up after a killed process: remove unfinished files, and put back a folder that was being replaced.

    No other process may be writing these files at the same time.

    Args:
        folder: folder to search, without its subfolders.
        name: clean up only the leftovers of the file or folder with this name; None: all leftovers.
        older_than: minimum age in seconds; younger leftovers are kept.
    """
    for path in sorted(Path(folder).glob(".*")):
        match = OWN_NAME.fullmatch(path.name)
        if not match or not match["kind"] or name and match["of"] != name \
                or older_than and time.time() - path.lstat().st_mtime < older_than:
            continue
        if match["kind"] == "old" and not path.with_name(match["of"]).exists():
            path.rename(path.with_name(match["of"]))
        else:
            _remove(path)


def plain(path):
    """Return ``path`` if it is a regular file. Opening a pipe could block for ever, and some devices have no end.

    Raises:
        OSError: ``path`` does not exist or cannot be accessed.
        ValueError: ``path`` is not a regular file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("not a plain file")
    return Path(path)


def write_checksums(folder):
    """Write the SHA-256 of each file in ``folder`` to its ``checksums.txt``, in the format of ``sha256sum``."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (Path(folder) / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def check_checksums(folder):
    """Compare the files in ``folder`` with its ``checksums.txt``, if it has one.

    Raises:
        InputError: a file is missing or has changed.
    """
    table = Path(folder) / CHECKSUMS
    try:
        lines = plain(table).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    except Exception as error:
        raise InputError(f"{table}: cannot be read ({error})") from error
    if not lines:
        raise InputError(f"{table}: is empty; copy the whole folder again")
    for line in lines:
        digest, _, name = line.partition("  ")
        path = Path(folder) / name
        if not path.is_file():
            raise InputError(f"{path}: is missing; copy the whole folder again")
        if _sha256(path) != digest:
            raise InputError(f"{path}: is damaged (its checksum differs); copy the whole folder again")


def _sha256(path):
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_model(folder):
    """Check that a folder holds an exported model and that its files are undamaged.

    Raises:
        InputError: there is no SavedModel, or `check_checksums` finds damage.
    """
    if not (Path(folder) / "saved_model.pb").is_file():
        raise InputError(f"{folder}: no SavedModel in this folder; train one with python train.py")
    check_checksums(folder)


def write_csv(path, header, rows):
    """Write a CSV table with `atomic`; ``header`` holds the column names of ``rows``."""
    with atomic(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def read_csv(path):
    """Read a CSV table as a list of rows, each a dict from column name to text.

    Raises:
        InputError: the file is missing or is not a table with rows of equal length.
    """
    try:
        with open(plain(path), newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise InputError(f"{path}: line {number} has another number of cells than the first; is this file whole?")
    return rows


# ---------------------------------------------------------------------- locks

def lock(stream, busy):
    """Lock an open file for this process. The operating system releases the lock however the process ends.

    Args:
        stream: the file, open for writing.
        busy: error message if another process holds the lock.

    Returns:
        True if the file is locked; False, after printing a line, on a drive that does not support locks.

    Raises:
        InputError: another process holds the lock.
    """
    try:
        if fcntl is None:
            raise OSError("no locks on this system")
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError as error:
        raise InputError(busy) from error
    except OSError as error:
        _say_without_locks(error.strerror or str(error))
        return False


@cache
def _say_without_locks(reason):
    say(f"files cannot be locked here ({reason}); do not start two programs that write to the same folders")


def lock_of(path):
    """Path of the lock file beside ``path``. The lock file exists while a process has `reserved` ``path``."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def reserved(path, busy):
    """Keep other processes from writing the file or folder at ``path``, with a lock file beside it.

    Args:
        path: the file or folder; it need not exist.
        busy: error message if another process has reserved ``path``.

    Raises:
        InputError: another process has reserved ``path``, or the lock file cannot be written.
    """
    beside = lock_of(Path(path).absolute())
    made = not beside.parent.exists()
    try:
        for turn in range(100):
            beside.parent.mkdir(parents=True, exist_ok=True)
            stream = open(beside, "a")
            try:
                held = lock(stream, busy)
                # If the inode numbers differ, the last holder removed the file between `open` and `lock`: try again, as
                # others may lock a new file. The number of turns is limited, because some network drives report a
                # different inode number each time.
                if not held or turn == 99 or os.path.samestat(os.fstat(stream.fileno()), os.stat(beside)):
                    break
            except FileNotFoundError:
                pass
            except BaseException:
                stream.close()
                raise
            stream.close()
    except OSError as error:
        raise InputError(f"{beside}: cannot be written ({error.strerror or error})") from error
    with stream:
        try:
            yield
        finally:
            with suppress(OSError):  # this error would hide the error that the user should see
                beside.unlink(missing_ok=True)
            if made:
                with suppress(OSError):  # the folder is not empty
                    beside.parent.rmdir()


# ---------------------------------------------------------------------- checks of output paths

def check_paths(reads, writes):
    """Refuse outputs that could harm an input of the command, another of its outputs, a run, or a model.

    To be called with all paths of a command, before any work. Links are followed. An output must not equal, contain or
    lie inside another path of the command, and must not have a name that the program reserves for itself.

    Args:
        reads, writes: flag, as the message names it -> path, list of paths, or None if the flag is not in use.

    Raises:
        InputError: an output is refused.
    """
    outputs, inputs = ([(flag, Path(path)) for flag, paths in given.items()
                        for path in (paths if isinstance(paths, list) else [paths]) if path is not None]
                       for given in (writes, reads))
    for number, (flag, path) in enumerate(outputs):
        real = Path(os.path.realpath(path))
        own = next((name for name in (*path.parts, *real.parts) if OWN_NAME.fullmatch(name)), None)
        if own:
            raise InputError(f"{flag} {path}: {own} is a name that the program uses itself; choose another {flag}")
        for other, place in [*inputs, *outputs[:number]]:
            found = Path(os.path.realpath(place))
            how = (None if other == flag else "is the same as" if real == found else
                   "lies in" if found in real.parents else "contains" if real in found.parents else None)
            if how:
                raise InputError(f"{flag} {path}: {how} {other} {place}, so that one could destroy the other; choose "
                                 f"another {flag}")
        for above in real.parents:
            kind = ("exported model" if (above / "saved_model.pb").exists() else
                    "run" if (above / "lock").exists() and (above / "config.json").exists() else
                    "prepared data set" if (above / "prepare.json").exists() else None)
            if kind:
                raise InputError(f"{flag} {path}: would be written into the {kind} {above}; choose another {flag}")


def check_replaceable(path, names, kind, flag):
    """Check that a folder can be written at ``path`` and would replace nothing but an earlier folder of the same kind.

    Args:
        path: the folder. It may be missing or empty, or hold only entries from ``names``, including the first name.
        names: names of the files and folders in a folder of this kind.
        kind: name of this kind of folder, for the message.
        flag: the command-line flag that sets the folder, for the message.

    Raises:
        InputError: ``path`` is a file or a link, holds something else, or cannot be written.
    """
    path = Path(path).absolute()
    _check_link(path, flag)
    if path.exists():
        if not path.is_dir():
            raise InputError(f"{path}: is no folder; choose another {flag}")
        there = {below.name for below in path.iterdir() if not OWN_NAME.fullmatch(below.name)} - LITTER
        foreign = sorted(there - set(names)) or ([] if set(names[:1]) <= there else sorted(there))
        if foreign:
            raise InputError(f"{path}: is no {kind}, but would be replaced by one, with the {foreign[0]} in it; choose "
                             f"another {flag}")
    _check_parents(path, flag)


def check_writable(path, flag, overwrite=False, begins=None):
    """Check, before any work, that a file can be written at ``path`` and would replace only a file of the same kind.

    Args:
        path: the file; it need not exist.
        flag: the command-line flag that sets the file, for the message.
        overwrite: whether a file that the program did not make may be replaced.
        begins: first bytes of a file of this kind; None: files of this kind contain `MARK` instead.

    Raises:
        InputError: ``path`` is a link or not a regular file, or must not be replaced; or its folder cannot be written.
    """
    path = Path(path).absolute()
    _check_link(path, flag)
    if path.exists():
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "no plain file"
            raise InputError(f"{path}: is {kind}; choose another {flag}")
        if not overwrite and not _made_here(path, begins):
            raise InputError(f"{path}: exists already, without the mark of what this program may replace; choose "
                             f"another {flag}, or replace it with --overwrite")
    _check_parents(path, flag)


def _made_here(path, begins):
    try:
        with open(path, "rb") as stream:
            ends = stream.read(4096)
            if begins is not None:
                return ends.startswith(begins)
            stream.seek(max(0, path.stat().st_size - 4096))  # an MP4 file has its comment near the end
            return MARK in ends or MARK in stream.read(4096)
    except OSError:
        return False


def _check_link(path, flag):
    if path.is_symlink():
        raise InputError(f"{path}: is a link, which would be replaced; give the path that it leads to, or choose "
                         f"another {flag}")


def _check_parents(path, flag):
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"{path}: cannot be written, because of {above}; choose another {flag}")
