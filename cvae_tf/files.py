"""Writing whole: under another name first, so that a file is the old one or the new one, never half of one."""

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
