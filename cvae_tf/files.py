"""Writing whole and reading what was written: a file is the old one or the new one, never half of one."""

import csv
import hashlib
import os
import re
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

from cvae_tf.errors import InputError

CHECKSUMS = "checksums.txt"


@contextmanager
def atomic(path):
    """Write a file or a folder under another name, which becomes ``path`` if all goes well.

    Used as ``with atomic(path) as unfinished:``.

    Missing parent folders are made, and a file or folder that stands at ``path`` is replaced. What was written is on
    the disk before it gets its name, so that a power cut leaves no empty file either.

    Raises:
        InputError: it cannot be written.
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
    if unfinished.is_dir() and path.is_dir():  # a folder cannot replace one that is not empty; see `clean_up`
        replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.rename(replaced)
        unfinished.rename(path)
        _flush(path.parent)
        _remove(replaced)
    else:
        os.replace(unfinished, path)
        _flush(path.parent)


def _flush(path):
    """Wait until a file, or which files a folder holds, is on the disk."""
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
    """Put right what a killed process left half done: remove what it had not finished, put back what it had set aside.

    Only for a folder, or a ``name`` in it, that no other process can be writing now, or for what is ``older_than`` so
    many seconds.
    """
    left_behind = re.compile(rf"\.({re.escape(name) if name else '.+'})\.\d+\.(tmp|old)")
    for path in sorted(Path(folder).glob(".*")):
        match = left_behind.fullmatch(path.name)
        if match and older_than and time.time() - path.lstat().st_mtime < older_than:
            continue
        if match and match[2] == "old" and not path.with_name(match[1]).exists():
            path.rename(path.with_name(match[1]))
        elif match:
            _remove(path)


def write_checksums(folder):
    """Write the SHA-256 of each file in ``folder`` to ``checksums.txt`` there, as ``sha256sum`` does."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (Path(folder) / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def check_model(folder):
    """Refuse a folder that holds no exported model, or a damaged one.

    Raises:
        InputError: there is none, or `check_checksums` finds damage.
    """
    if not (Path(folder) / "saved_model.pb").is_file():
        raise InputError(f"{folder}: no SavedModel in this folder; train one with python train.py")
    check_checksums(folder)


def check_checksums(folder):
    """Compare a folder with its ``checksums.txt``, if it has one.

    Raises:
        InputError: a file is missing or is not the one that was written.
    """
    try:
        lines = (Path(folder) / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(f"{Path(folder) / CHECKSUMS}: cannot be read ({error})") from error
    if not lines:
        raise InputError(f"{Path(folder) / CHECKSUMS}: is empty; copy the whole folder again")
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


def write_csv(path, header, rows):
    """Write a table with `atomic`: ``header`` names the columns of ``rows``."""
    with atomic(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path):
    """The rows of a table as dicts of text by column name.

    Raises:
        InputError: the file is missing or is no such table.
    """
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise InputError(f"{path}: line {number} has another number of cells than the first; is this file whole?")
    return rows


def check_replaceable(path, names, what, flag):
    """Refuse a folder to write that holds what the user may want to keep, or that cannot be made.

    Args:
        path: of the folder. It may be missing, or hold nothing but ``names``.
        names: of what an earlier one holds.
        what: it is called, in the error.
        flag: that chooses another.

    Raises:
        InputError: ``path`` is a file, holds something else, or lies where nothing can be written.
    """
    path = Path(path).absolute()
    if path.exists():
        foreign = sorted({below.name for below in path.iterdir()} - set(names)) if path.is_dir() else [path.name]
        if foreign:
            raise InputError(f"{path}: is no {what}, but would be replaced by one, with the {foreign[0]} in it; choose "
                             f"another {flag}")
    _check_place(path, flag)


def check_writable(path, flag):
    """Refuse a path at which no file can be written, before any work is done for it.

    Raises:
        InputError: it is a folder, lies below a file or in a folder that may not be written; ``flag`` chooses another.
    """
    path = Path(path).absolute()
    if path.is_dir():
        raise InputError(f"{path}: is a folder; choose another {flag}")
    _check_place(path, flag)


def _check_place(path, flag):
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"{path}: cannot be written, because of {above}; choose another {flag}")
