"""The folder of a run: the names of its files, the lock on it, and how it is set aside."""

import os
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from cvae_tf.errors import InputError
from cvae_tf.files import clean_up

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@dataclass(frozen=True)
class RunFolders:
    """Where a run keeps its files: the one place that knows their names."""

    root: Path
    export: Path | None = None

    config = property(lambda self: self.root / "config.json")
    lock = property(lambda self: self.root / "lock")
    metrics = property(lambda self: self.root / "metrics.csv")
    psnr_per_frame = property(lambda self: self.root / "psnr_per_frame.csv")
    tensorboard = property(lambda self: self.root / "tensorboard")
    checkpoints = property(lambda self: self.root / "checkpoints")
    samples = property(lambda self: self.root / "samples")
    last_model = property(lambda self: self.root / "last_model")

    def is_run(self):
        """Whether there is a run in the folder, or the beginning of one."""
        return any(path.exists() for path in (self.config, self.lock, self.checkpoints))

    def sample(self, epoch):
        """GIF of the validation after ``epoch`` (counted from 1)."""
        return self.samples / f"epoch_{epoch:03d}.gif"


def run_folders(config):
    """The folders of ``config``'s run: those that it names, or the next free ``runs/PRESET-N``."""
    number = 1
    while not config.run_dir and any((Path(folder) / f"{config.preset}-{number}").exists()
                                     for folder in ("runs", "saved_models")):
        number += 1
    root = Path(config.run_dir or f"runs/{config.preset}-{number}")
    export = Path(config.export_dir) if config.export_dir else Path("saved_models") / root.absolute().name
    return RunFolders(root, export)


def claim(config):
    """The folders of ``config``'s run, the root made; of two processes that start at once, each gets its own number.

    Raises:
        InputError: it cannot be made.
    """
    while True:
        folders = run_folders(config)
        try:
            folders.root.mkdir(parents=True)
            return folders
        except FileExistsError as error:
            if folders.root.is_dir() and config.run_dir:
                return folders
            if config.run_dir:
                raise InputError(f"{folders.root}: is a file; choose another --run_dir") from error
        except OSError as error:
            raise InputError(f"{folders.root}: cannot be made ({error.strerror}); choose another --run_dir") from error


@contextmanager
def locked(folders):
    """Hold the run for this process alone, and put right what a killed one left half done.

    The system drops the lock with the process, however that ends. Where a drive knows no locks, a line says so.

    Yields:
        A function that raises `InputError` where the folder has been removed or replaced since.

    Raises:
        InputError: another process holds it, or the folder cannot be written or is not a run's.
    """
    try:
        foreign = sorted(path.name for path in folders.root.iterdir() if not path.name.startswith("."))
        if foreign and not folders.is_run():
            raise InputError(f"{folders.root}: is no run, and there is {foreign[0]} in it; choose another --run_dir")
        stream = open(folders.lock, "a")
    except OSError as error:
        raise InputError(f"{folders.root}: cannot be written ({error.strerror}); choose another --run_dir") from error
    with stream:
        held = _lock(stream, folders.root)
        for folder in (folders.root, folders.checkpoints, folders.samples):
            clean_up(folder)
        clean_up(folders.export.parent, folders.export.name)

        def check():
            try:
                same = not held or os.path.samestat(os.fstat(stream.fileno()), os.stat(folders.lock))
            except OSError:
                same = False
            if not same or not folders.config.exists():
                raise InputError(f"{folders.root}: was removed or replaced while it was being trained, so nothing can "
                                 "be saved there")

        yield check


def _lock(stream, root):
    """Lock an open file; False where the drive knows no locks."""
    try:
        if fcntl is None:
            raise OSError("no locks on this system")
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError as error:
        raise InputError(f"{root}: another process is training this run; wait until it ends, or choose another "
                         "--run_dir") from error
    except OSError as error:
        print(f"{root}: cannot be locked ({error.strerror or error}); do not start this run twice at once", flush=True)
        return False


def set_aside(folders):
    """Rename the folder and the exported model of a run to the next free ``NAME.old-N``; returns the new names.

    Raises:
        InputError: the run is being trained, or cannot be renamed.
    """
    number, moved = 1, []
    present = [path for path in (folders.root, folders.export) if path.exists()]
    while any(_old(path, number).exists() for path in present):
        number += 1
    with locked(folders) if folders.root.exists() else nullcontext():
        for path in present:
            try:
                path.rename(_old(path, number))
            except OSError as error:
                raise InputError(f"{path}: cannot be renamed ({error.strerror})") from error
            moved.append(_old(path, number))
    return moved


def _old(path, number):
    return path.with_name(f"{path.name}.old-{number}")

