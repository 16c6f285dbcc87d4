"""A run that is cut and resumed sees the batches that an uncut run sees: every image, in the same order, mirrored alike."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from alphabar.training.data import ImageSet, ImageSource, Shape
from alphabar.training.data.datamodule import ImageDataModule
from alphabar.training.data.loader import ImageLoader
from alphabar.training.data.order import EpochOrder
from alphabar.training.data.resident import ResidentImages

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # Lightning 2.6 with torch 2.14
NUM_IMAGES, BATCH_SIZE = 45, 6  # 7 batches an epoch and a rest of 3
NUM_BATCHES = 7
MODES = [
    pytest.param({"resident": True}, id="resident"),
    pytest.param({"resident": False}, id="streaming-0-workers"),
    pytest.param({"resident": False, "num_workers": 2}, id="streaming-2-workers"),
    pytest.param({"resident": True, "num_workers": 2}, id="resident-2-workers"),
]


def numbered_images(num: int = NUM_IMAGES) -> ResidentImages:
    """Image i has the value i on its left half and 255 on its right: the batch tells which images, and whether mirrored."""
    pixels = torch.full((num, 1, 4, 4), 255, dtype=torch.uint8)
    pixels[..., :2] = torch.arange(num, dtype=torch.uint8)[:, None, None, None]
    return ResidentImages(pixels, torch.arange(num))


class Numbered(ImageSource):
    shape = Shape(1, 4)
    symmetric = True
    classes = None

    def prepare(self) -> None: ...

    def train(self) -> ImageSet:
        return numbered_images()

    def held_out(self) -> ImageSet:
        return numbered_images(0)

    def fingerprint(self) -> str:
        return "numbered"


class Recorder(LightningModule):
    """Learns nothing and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int], list[bool]]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        left, right = batch["image"][:, 0, 0, 0], batch["image"][:, 0, 0, 3]
        assert torch.minimum(left, right).tolist() == batch["label"].tolist()
        self.seen.append((self.current_epoch, batch["label"].tolist(), (left == 255).tolist()))
        return self.weight * batch["image"].float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Saves after the given number of steps, at the end of the batch or of the epoch."""

    def __init__(self, step: int, path: Path, hook: str) -> None:
        self.step, self.path, self.hook = step, path, hook

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        if self.hook == "batch" and trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, *args: object) -> None:
        if self.hook == "epoch" and trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(limits: dict, mode: dict, callbacks: tuple[Callback, ...] = (), ckpt_path: Path | None = None) -> Recorder:
    module = Recorder()
    trainer = Trainer(
        **limits,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )
    trainer.fit(
        module,
        datamodule=ImageDataModule(Numbered(), batch_size=BATCH_SIZE, seed=3, **mode),
        ckpt_path=ckpt_path,
        weights_only=True if ckpt_path else None,
    )
    return module


BY_STEPS, BY_EPOCHS = {"max_steps": 24, "max_epochs": -1}, {"max_epochs": 3}
CASES = [
    pytest.param("batch", 3, id="mid-epoch"),
    pytest.param("batch", 7, id="last-batch"),
    pytest.param("batch", 8, id="first-batch"),
    pytest.param("batch", 14, id="last-batch-of-second"),
    pytest.param("batch", 17, id="mid-third-epoch"),
    pytest.param("epoch", 7, id="epoch-end"),
    pytest.param("epoch", 14, id="second-epoch-end"),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("hook", "step"), CASES)
@pytest.mark.parametrize("limits", [pytest.param(BY_STEPS, id="max_steps"), pytest.param(BY_EPOCHS, id="max_epochs")])
def test_resumed_run_sees_the_batches_of_the_straight_run(tmp_path, limits, hook, step, mode):
    path = tmp_path / "cut.ckpt"
    straight = fit(limits, mode, (SaveAt(step, path, hook),))
    rest = fit(limits, mode, ckpt_path=path)
    print([s[0] for s in straight.seen], [s[0] for s in rest.seen])
    assert [s[1:] for s in rest.seen] == [s[1:] for s in straight.seen[step:]]

