"""The folder of a run: the names of its files, the lock on it, and how it is set aside."""

from contextlib import contextmanager
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

    Raises:
        InputError: another process holds it, or the folder cannot be written.
    """
    try:
        stream = open(folders.lock, "a")
    except OSError as error:
        raise InputError(f"{folders.root}: cannot be written ({error.strerror}); choose another --run_dir") from error
    with stream:
        try:
            if fcntl is None:
                raise OSError("no locks on this system")
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folders.root}: another process is training this run; wait until it ends, or choose "
                             "another --run_dir") from error
        except OSError as error:
            print(f"{folders.root}: cannot be locked ({error.strerror or error}); do not start this run twice at once",
                  flush=True)
        for folder in (folders.root, folders.checkpoints, folders.samples):
            clean_up(folder)
        clean_up(folders.export.parent, folders.export.name)
        yield


def set_aside(folders):
    """Rename the folder and the exported model of a run to the next free ``NAME.old-N``; returns the new names.

    Raises:
        InputError: the run is being trained, or cannot be renamed.
    """
    if folders.root.exists():
        with locked(folders):
            pass
    number, moved = 1, []
    present = [path for path in (folders.root, folders.export) if path.exists()]
    while any(_old(path, number).exists() for path in present):
        number += 1
    for path in present:
        try:
            path.rename(_old(path, number))
        except OSError as error:
            raise InputError(f"{path}: cannot be renamed ({error.strerror})") from error
        moved.append(_old(path, number))
    return moved


def _old(path, number):
    return path.with_name(f"{path.name}.old-{number}")


def check_present(folders):
    """Notice that the run's folder was removed while it was being trained.

    Raises:
        InputError: it was.
    """
    if not folders.config.exists():
        raise InputError(f"{folders.root}: was removed while it was being trained, so nothing can be saved there")
