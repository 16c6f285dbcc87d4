"""The logger of TensorBoard, an optional package."""

from lightning.pytorch.loggers import TensorBoardLogger

from alphabar.errors import UserError


class TensorBoardRun(TensorBoardLogger):
    """Writes event files into the run's folder, whose name is that of the run: `tensorboard --logdir outputs/train`.

    Raises UserError if tensorboard is not installed.
    """

    def __init__(self, run_dir: str, name: str, group: str | None = None) -> None:
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise UserError("logger=tensorboard needs a package that is not installed: pip install tensorboard") from error
        super().__init__(save_dir=run_dir, name="", version="tensorboard")
