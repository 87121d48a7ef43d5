"""The folder of a run: where it keeps its files. The one place that knows their names."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolders:
    """Where a run keeps its files."""

    root: Path
    export: Path | None = None

    config = property(lambda self: self.root / "config.json")
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
