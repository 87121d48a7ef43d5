"""Writing whole: under another name first, so that a file is the old one or the new one, never half of one."""

import csv
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from cvae_tf.errors import InputError


@contextmanager
def atomic(path):
    """Write a file or a folder under another name, which becomes ``path`` if all goes well.

    Used as ``with atomic(path) as unfinished:``.

    Missing parent folders are made, and a file or folder that stands at ``path`` is replaced.

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
            if unfinished.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)
            else:
                unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


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
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"{path}: cannot be written, because of {above}; choose another {flag}")


def _replace(unfinished, path):
    if unfinished.is_dir() and path.is_dir():  # a folder cannot replace one that is not empty
        replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.rename(replaced)
        unfinished.rename(path)
        shutil.rmtree(replaced)
        return
    if unfinished.is_file():
        with open(unfinished, "rb+") as stream:
            os.fsync(stream.fileno())
    os.replace(unfinished, path)
