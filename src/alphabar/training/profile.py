"""The report of the Trainer's profiler: `profiler=simple`, or Lightning's own `+trainer.profiler=simple`."""

from pathlib import Path

from lightning.pytorch import Trainer

from alphabar.files.atomic import write_text

FILE_NAME = "profile.txt"


def report_profile(trainer: Trainer) -> None:
    """Prints the profiler's report and writes it into the run's folder, if the run has a profiler; on the first process."""
    summary = trainer.profiler.summary()  # type: ignore[attr-defined]
    if summary and trainer.is_global_zero:
        print(summary.strip())
        write_text(Path(trainer.default_root_dir) / FILE_NAME, summary)
