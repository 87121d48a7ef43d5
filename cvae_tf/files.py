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
    with atomic(path) as unfinished, open(unfinished, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path):
    """The rows of a table as dicts of text by column name.

    Raises:
        InputError: the file is missing or is no such table.
    """
    try:
        with open(path, newline="") as stream:
            return list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error


def check_replaceable(path, mark, what, flag):
    """Refuse to replace what the user may want to keep.

    Args:
        path: of the folder to be written: it may be missing, be empty or hold a file named ``mark``.
        what: such a folder is called, in the error.
        flag: that chooses another.

    Raises:
        InputError: ``path`` is a file or some other folder.
    """
    path = Path(path)
    if path.exists() and not (path / mark).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: is no {what}, but would be replaced by one; choose another {flag}")


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
