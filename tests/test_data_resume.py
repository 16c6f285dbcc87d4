"""The order of batches: a function of (seed, epoch), dealt out among ranks, and not changed by stopping and going on."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from alphabar.data import ImageSet, ImageSource, Shape
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.image_sets.decoded import DecodedImages
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.loading.loader import ImageBatches, ImageLoader
from alphabar.data.loading.order import EpochOrder
from alphabar.data.sources.folder import Folder
from alphabar.errors import UserError

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
    """Image i has the value i on its left half and 255 on its right: so a batch shows which images it has, and whether they are mirrored."""
    pixels = torch.full((num, 1, 4, 4), 255, dtype=torch.uint8)
    pixels[..., :2] = torch.arange(num, dtype=torch.uint8)[:, None, None, None]
    return ResidentImages(pixels, torch.arange(num))


class Numbered(ImageSource):
    shape = Shape(1, 4, 4)
    symmetric = True
    classes = None
    captions = None

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
        self.seen: list[tuple[list[int], list[bool]]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        left, right = batch["image"][:, 0, 0, 0], batch["image"][:, 0, 0, 3]
        assert torch.minimum(left, right).tolist() == batch["label"].tolist()
        self.seen.append((batch["label"].tolist(), (left == 255).tolist()))
        return self.weight * batch["image"].float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Saves when `hook` is called after `step` steps."""

    def __init__(self, step: int, path: Path, hook: str = "batch") -> None:
        self.step, self.path, self.hook = step, path, hook

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        self.save(trainer, "batch")

    def on_train_epoch_end(self, trainer: Trainer, *args: object) -> None:
        self.save(trainer, "epoch")

    def on_train_end(self, trainer: Trainer, *args: object) -> None:
        self.save(trainer, "end")

    def save(self, trainer: Trainer, hook: str) -> None:
        if (self.hook, self.step) == (hook, trainer.global_step):
            trainer.save_checkpoint(self.path)


def fit(data: ImageDataModule, limits: dict, callbacks: tuple[Callback, ...] = (), ckpt_path: Path | None = None) -> Recorder:
    module = Recorder()
    trainer = Trainer(
        **{"max_epochs": -1} | limits,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


def numbered(**settings: object) -> ImageDataModule:
    return ImageDataModule(Numbered(), batch_size=BATCH_SIZE, seed=3, **settings)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("hook", "step"),
    [
        pytest.param("batch", 3, id="mid-epoch"),
        pytest.param("batch", 7, id="last-batch"),
        pytest.param("batch", 8, id="first-batch"),
        pytest.param("epoch", 14, id="epoch-end"),
    ],
)
def test_resumed_run_sees_what_the_straight_run_sees(tmp_path, mode, hook, step):
    straight = fit(numbered(**mode), {"max_steps": 23}, (SaveAt(step, tmp_path / "cut.ckpt", hook),))
    rest = fit(numbered(**mode), {"max_steps": 23}, ckpt_path=tmp_path / "cut.ckpt")
    assert len(straight.seen) == 23
    assert rest.seen == straight.seen[step:]


@pytest.mark.parametrize(
    ("limits", "longer"),
    [
        pytest.param({"max_steps": 10}, {"max_steps": 20}, id="mid-epoch"),
        pytest.param({"max_steps": 14}, {"max_steps": 20}, id="epoch-end"),
        pytest.param({"max_epochs": 2}, {"max_epochs": 3}, id="max-epochs"),
        pytest.param({"max_steps": 10, "limit_train_batches": 4}, {"max_steps": 20, "limit_train_batches": 4}, id="short-epochs"),
    ],
)
def test_a_finished_run_can_be_made_longer(tmp_path, limits, longer):
    straight = fit(numbered(), longer)
    first = fit(numbered(), limits, (SaveAt(limits.get("max_steps", 14), tmp_path / "end.ckpt", "end"),))
    rest = fit(numbered(), longer, ckpt_path=tmp_path / "end.ckpt")
    assert first.seen + rest.seen == straight.seen


@pytest.mark.parametrize("mode", MODES)
def test_resuming_twice(tmp_path, mode):
    straight = fit(numbered(**mode), {"max_steps": 20}, (SaveAt(4, tmp_path / "4.ckpt"),))
    fit(numbered(**mode), {"max_steps": 11}, (SaveAt(9, tmp_path / "9.ckpt"),), tmp_path / "4.ckpt")
    rest = fit(numbered(**mode), {"max_steps": 20}, ckpt_path=tmp_path / "9.ckpt")
    assert rest.seen == straight.seen[9:]


def test_workers_or_not_and_resident_or_not_make_no_difference_and_none_stays_behind():
    runs = [fit(numbered(**mode.values[0]), {"max_steps": 10}).seen for mode in MODES]
    assert runs[0] == runs[1] == runs[2] == runs[3]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("batch_size", "world_size"), [(6, 1), (3, 2), (2, 3), (7, 2)])
def test_ranks_share_an_epoch_without_padding(batch_size, world_size):
    ranks = [EpochOrder(NUM_IMAGES, batch_size, 3, rank, world_size).indices(5) for rank in range(world_size)]
    alone = EpochOrder(NUM_IMAGES, batch_size * world_size, 3).indices(5)
    together = torch.cat(ranks, dim=1)
    assert all(rank.shape == (NUM_IMAGES // (batch_size * world_size), batch_size) for rank in ranks)
    assert len(set(together.flatten().tolist())) == together.numel()
    assert torch.equal(together, alone)


def test_order_and_flips_depend_on_seed_and_epoch():
    order = EpochOrder(NUM_IMAGES, BATCH_SIZE, 3)
    for stream in (EpochOrder.indices, EpochOrder.flips):
        first = stream(order, 0)
        assert torch.equal(first, stream(EpochOrder(NUM_IMAGES, BATCH_SIZE, 3), 0))
        assert not torch.equal(first, stream(order, 1))
        assert not torch.equal(first, stream(EpochOrder(NUM_IMAGES, BATCH_SIZE, 4), 0))
    assert 0.4 < torch.cat([order.flips(epoch) for epoch in range(100)]).double().mean() < 0.6


def test_workers_may_be_started_by_a_server(monkeypatch):
    """As they are by default from Python 3.14 on."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        loader = ImageLoader(ImageBatches(numbered_images()), EpochOrder(NUM_IMAGES, BATCH_SIZE, 3), flip=True, num_workers=1)
        assert len(next(iter(loader))["image"]) == BATCH_SIZE
        loader.close()
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_what_a_loader_draws_leaves_the_global_stream_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    loader = ImageLoader(ImageBatches(numbered_images()), EpochOrder(NUM_IMAGES, BATCH_SIZE, 3), flip=True, num_workers=1)
    assert len(list(loader)) == len(loader) == NUM_BATCHES
    assert torch.equal(torch.rand(3), expected)


def test_resuming_with_another_batch_size_goes_on_after_the_images_seen(caplog):
    before = ImageLoader(ImageBatches(numbered_images()), EpochOrder(NUM_IMAGES, 6, 3), flip=False)
    stream = iter(before)
    for _ in range(4):
        next(stream)
    after = ImageLoader(ImageBatches(numbered_images()), EpochOrder(NUM_IMAGES, 3, 3), flip=False)
    after.load_state_dict(before.state_dict())
    assert next(iter(after))["label"].tolist() == next(stream)["label"].tolist()[:3]
    assert "batch_size was 6, is 3" in caplog.text


@pytest.mark.parametrize("strict", [False, True], ids=["skip", "strict"])
def test_workers_report_an_unreadable_image(tmp_path, capfd, strict):
    for index in range(8):
        Image.new("L", (4, 4), index).save(tmp_path / f"{index}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    others = set(multiprocessing.active_children())  # of tests before, which a garbage collection ends
    data = Folder(str(tmp_path), 4, batch_size=4, seed=0, held_out=0, strict=strict, resident=False)
    assert isinstance(data.train_set, DecodedImages)
    loader = ImageLoader(ImageBatches(data.train_set), EpochOrder(8, 4, 0), flip=False, num_workers=2)
    if strict:
        with pytest.raises(UserError, match=r"^cannot read .*3.png: UnidentifiedImageError: [^\n]*$"):
            list(loader)
    else:
        shown = torch.cat([batch["image"] for _ in range(3) for batch in loader])
        assert len(shown) == 24
        assert set(shown.unique().tolist()) == set(range(8)) - {3}
        assert data.train_set.unreadable.found.sum() == 1
    loader.close()
    assert set(multiprocessing.active_children()) <= others
