"""The folder of a training run (file names, lock, renaming an old run), and requests to stop."""

import itertools
import os
import re
import secrets
import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cvae_tf.errors import InputError
from cvae_tf.files import clean_up, lock, lock_of, reserved

ABOUT_LOCK = "the number of this run, by which its exported model is known: keep this file, it locks nothing by itself"


@dataclass(frozen=True)
class RunFolders:
    """Paths of all files of a run. No other module knows their names.

    Args:
        root: folder of the run.
        export: folder of the exported best model; None if only the files below ``root`` are needed.
    """

    root: Path
    export: Path | None = None

    config = property(lambda self: self.root / "config.json")
    lock = property(lambda self: self.root / "lock")
    metrics = property(lambda self: self.root / "metrics.csv")
    stopped = property(lambda self: self.root / "stopped.csv")
    psnr_per_frame = property(lambda self: self.root / "psnr_per_frame.csv")
    tensorboard = property(lambda self: self.root / "tensorboard")
    checkpoints = property(lambda self: self.root / "checkpoints")
    samples = property(lambda self: self.root / "samples")
    last_model = property(lambda self: self.root / "last_model")

    def is_run(self):
        """Whether the folder holds a run, or the beginning of one."""
        return any(path.exists() for path in (self.config, self.lock, self.checkpoints))

    def number(self):
        """The random number that identifies this run, from the first line of its ``lock`` file, or None."""
        try:
            found = re.match(r"[0-9a-f]{16}\n", self.lock.read_text(encoding="ascii", errors="replace"))
        except OSError:
            return None
        return found and found[0].strip()

    def sample(self, epoch):
        """Path of the GIF written by the validation after ``epoch``, which counts from 1."""
        return self.samples / f"epoch_{epoch:03d}.gif"


def run_folders(preset, run_dir="", export_dir=""):
    """Choose the folders of a run: the given ones, else the next free ``runs/PRESET-N`` and ``saved_models/NAME``."""
    def taken(number):
        run, export = (Path(folder) / f"{preset}-{number}" for folder in ("runs", "saved_models"))
        return any(path.exists() for path in (run, export, lock_of(export)))

    root = Path(run_dir or f"runs/{preset}-{next(number for number in itertools.count(1) if not taken(number))}")
    return RunFolders(root, Path(export_dir or Path("saved_models") / root.absolute().name))


def claim(preset, run_dir="", export_dir=""):
    """Make the folder of a new run, and return its `RunFolders`. Processes that start at once get different folders.

    Raises:
        InputError: the folder cannot be made.
    """
    while True:
        folders = run_folders(preset, run_dir, export_dir)
        try:
            folders.root.mkdir(parents=True, exist_ok=bool(run_dir))
            return folders
        except OSError as error:
            if run_dir or not isinstance(error, FileExistsError):
                raise InputError(f"{folders.root}: cannot be made ({error.strerror}); choose another --run_dir"
                                 ) from error


@contextmanager
def locked(folders):
    """Reserve a run and its exported model for this process, and clean up after a killed process.

    The operating system releases the locks however the process ends. On a drive without locks, a line is printed and
    the run continues unlocked. A run without a number (`RunFolders.number`) gets one.

    Yields:
        A function without arguments that raises `InputError` if the folder has been removed or replaced since.

    Raises:
        InputError: another process holds a lock, or the folder cannot be written or holds something else.
    """
    try:
        foreign = sorted(path.name for path in folders.root.iterdir() if not path.name.startswith("."))
        if foreign and not folders.is_run():
            raise InputError(f"{folders.root}: is no run, and there is {foreign[0]} in it; choose another --run_dir")
        stream = open(folders.lock, "a")
    except OSError as error:
        raise InputError(f"{folders.root}: cannot be written ({error.strerror}); choose another --run_dir") from error
    with stream, ExitStack() as stack:
        held = lock(stream, f"{folders.root}: another process is training this run; wait until it ends, or choose "
                    "another --run_dir")
        stack.enter_context(export_reserved(folders.export))
        for folder in (folders.root, folders.checkpoints, folders.samples, folders.tensorboard, folders.last_model,
                       folders.export):
            clean_up(folder)
        clean_up(folders.export.parent, folders.export.name)
        if not folders.number():
            stream.truncate(0)
            stream.write(f"{secrets.token_hex(8)}\n{ABOUT_LOCK}\n")
            stream.flush()
            os.fsync(stream.fileno())  # on disk before any export refers to this number

        def check():
            try:
                same = not held or os.path.samestat(os.fstat(stream.fileno()), os.stat(folders.lock))
            except OSError:
                same = False
            if not same or not folders.config.exists():
                raise InputError(f"{folders.root}: was removed or replaced while it was being trained, so nothing can "
                                 "be saved there")

        yield check


def export_reserved(export):
    """Reserve the folder of an exported model with `files.reserved`."""
    return reserved(export, f"{export}: another process is writing this exported model; wait until it ends, or choose "
                    "another --export_dir")


def set_aside(folders):
    """Rename the folder and the exported model of a run to the next free ``NAME.old-N``, and return the new paths.

    Raises:
        InputError: the run is being trained, or a folder cannot be renamed.
    """
    number, renamed = 1, []
    with locked(folders):
        present = [path for path in (folders.export, folders.root) if path.exists()]
        while any(_numbered(path, number).exists() for path in present):
            number += 1
        for path in present:
            try:
                renamed.append(path.rename(_numbered(path, number)))
            except OSError as error:
                for before, after in zip(present, renamed, strict=False):
                    after.rename(before)
                raise InputError(f"{path}: cannot be renamed ({error.strerror})") from error
    return renamed


def _numbered(path, number):
    return path.with_name(f"{path.name}.old-{number}")


class Stopped(Exception):
    """Raised to stop training on request between two steps, after the run has been saved if its state is good."""


class StopRequest:
    """Decides whether training should stop after the step in progress: the time is up, or a signal has arrived.

    The time limit includes the validation and the two exports that follow a stop.

    Args:
        minutes: time limit in minutes; 0: none.
        began: value of `time.monotonic` from which the limit counts; None: now.

    Attributes:
        signal: number of the signal that requested the stop, or None.
        took: seconds that the last ``"validation"`` and the last ``"export"`` took; an estimate before the first.
    """

    def __init__(self, minutes=0.0, began=None):
        self.end = (time.monotonic() if began is None else began) + 60 * minutes if minutes else float("inf")
        self.signal = None
        self.took = {"validation": 0.0, "export": 0.0}

    @contextmanager
    def timing(self, name):
        """Measure the duration of a ``"validation"`` or an ``"export"``, the value of ``name``."""
        began = time.monotonic()
        yield
        self.took[name] = time.monotonic() - began

    def seconds_left(self):
        """Seconds until training must stop for the validation and the exports to fit into the time limit."""
        return self.end - time.monotonic() - 1.05 * (self.took["validation"] + 2 * self.took["export"])

    def time_is_up(self):
        """Whether no time is left for another step."""
        return self.seconds_left() <= 0

    def due(self):
        """Whether to stop, because of the time limit or a signal."""
        return self.signal is not None or self.time_is_up()

    @contextmanager
    def listening(self):
        """Let SIGINT and SIGTERM request a stop. A second signal ends the process at once, without half-written files.

        Signals that the process ignores, as under ``nohup``, stay ignored.
        """
        if threading.current_thread() is not threading.main_thread():  # no other thread can set signal handlers
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
                  if signal.getsignal(number) != signal.SIG_IGN}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number, _):
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        try:  # not `print`: the signal may have interrupted a `print`
            os.write(2, b"\nstopping after this step, or the validation in progress; once more to stop at once\n")
        except OSError:  # stderr is closed
            pass
