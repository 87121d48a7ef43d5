"""Atomic writing, checksums and tables: a file is always the old version or the new one, never half of one."""

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
    """Write a file or a folder under a temporary name, and rename it to ``path`` on success.

    Use as ``with atomic(path) as unfinished:``. Missing parent folders are made; a file or folder at ``path`` is
    replaced. The content is flushed to the disk before the renaming, so that a power cut leaves no empty file either.

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
    if unfinished.is_dir() and path.is_dir():  # a folder cannot replace one with content; see `clean_up`
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
    """Repair the traces of a killed process: remove unfinished files, and put back a folder that was being replaced.

    No other process may be writing these files now.

    Args:
        folder: where to look.
        name: repair only the file or folder of this name; None: all.
        older_than: leave traces alone that are younger than this, in seconds.
    """
    trace = re.compile(rf"\.({re.escape(name) if name else '.+'})\.\d+\.(tmp|old)")
    for path in sorted(Path(folder).glob(".*")):
        match = trace.fullmatch(path.name)
        if not match or older_than and time.time() - path.lstat().st_mtime < older_than:
            continue
        if match[2] == "old" and not path.with_name(match[1]).exists():
            path.rename(path.with_name(match[1]))
        else:
            _remove(path)


def write_checksums(folder):
    """Write the SHA-256 of each file in ``folder`` to ``checksums.txt`` there, in the format of ``sha256sum``."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (Path(folder) / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def check_checksums(folder):
    """Compare the files in ``folder`` with its ``checksums.txt``, if there is one.

    Raises:
        InputError: a file is missing or has changed.
    """
    table = Path(folder) / CHECKSUMS
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
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
    """Write a table with `atomic`; ``header`` holds the names of the columns of ``rows``."""
    with atomic(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def read_csv(path):
    """Read a table as a list of rows, each a dict from column name to text.

    Raises:
        InputError: the file is missing or is not a table with equally long lines.
    """
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise InputError(f"{path}: line {number} has another number of cells than the first; is this file whole?")
    return rows


def check_replaceable(path, names, kind, flag):
    """Check that a folder can be written at ``path`` without replacing anything but an earlier one of the same kind.

    Args:
        path: the folder. It may be missing, or hold nothing but ``names``.
        names: names of the files and folders in one of this kind.
        kind: what the folder is called in the message.
        flag: the command-line flag that chooses another folder.

    Raises:
        InputError: ``path`` is a file, holds something else, or cannot be written.
    """
    path = Path(path).absolute()
    if path.exists():
        foreign = sorted({below.name for below in path.iterdir()} - set(names)) if path.is_dir() else [path.name]
        if foreign:
            raise InputError(f"{path}: is no {kind}, but would be replaced by one, with the {foreign[0]} in it; choose "
                             f"another {flag}")
    _check_parents(path, flag)


def check_writable(path, flag):
    """Check, before any work is done for it, that a file can be written at ``path``.

    Raises:
        InputError: ``path`` is a folder, or its parent folder cannot be written; ``flag`` chooses another.
    """
    path = Path(path).absolute()
    if path.is_dir():
        raise InputError(f"{path}: is a folder; choose another {flag}")
    _check_parents(path, flag)


def _check_parents(path, flag):
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"{path}: cannot be written, because of {above}; choose another {flag}")
