"""Mirrored images: whether they are made for each batch or kept in memory, batches are the same."""

import pytest
import torch
from lightning.pytorch import Trainer

from alphabar.bits import plain_integers
from alphabar.data import ImageSet, ImageSource, Shape
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.loading.loader import ImageBatches, MirroredBatches
from alphabar.data.loading.order import EpochOrder, Places

NUM = 50


def images(dtype: torch.dtype = torch.uint8, size: tuple[int, int, int] = (3, 4, 5)) -> ResidentImages:
    """Images that are not their own mirror images, whose labels are their indices."""
    pixels = torch.arange(NUM * 3 * size[1] * size[2]).view(NUM, *size) * 7
    return ResidentImages(pixels.to(dtype), torch.arange(NUM))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("kept", [False, True], ids=["made", "kept"])
def test_a_batch_is_mirrored_where_the_order_says(dtype, kept):
    source = MirroredBatches(images(dtype).with_mirrored()) if kept else ImageBatches(images(dtype))
    plain = plain_integers(images(dtype).pixels)
    for _, (indices, flips, crops) in zip(range(8), EpochOrder(NUM, 6, 3).batches(0, flip=True), strict=False):
        assert 0 < flips.sum() < 6
        batch = source.batch(Places(indices, flips, crops))
        expected = [plain[index].flip(-1) if flip else plain[index] for index, flip in zip(indices, flips, strict=True)]
        assert batch["image"].dtype == dtype
        assert plain_integers(batch["image"]).equal(torch.stack(expected))
        assert batch["label"].equal(indices)
        assert plain_integers(source.batch(Places(indices))["image"]).equal(plain[indices])
    assert plain_integers(images(dtype).pixels).equal(plain)


class Given(ImageSource):
    """A source of images of 1 MB in all."""

    @property
    def shape(self) -> Shape:
        return Shape(3, 90, 77)

    def prepare(self) -> None:
        pass

    def train(self) -> ImageSet:
        return images(size=self.shape)

    def held_out(self) -> ImageSet:
        return images(size=self.shape)

    def fingerprint(self) -> str:
        return "given"


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        pytest.param({"max_resident_mb": 3}, MirroredBatches, id="three copies fit"),
        pytest.param({"max_resident_mb": 2}, ImageBatches, id="they do not fit"),
        pytest.param({"max_resident_mb": 2, "resident": True}, ImageBatches, id="one copy is asked for"),
        pytest.param({"max_resident_mb": 3, "flip": False}, ImageBatches, id="nothing is mirrored"),
        pytest.param({"max_resident_mb": 3, "num_workers": 1}, ImageBatches, id="workers would copy them"),
    ],
)
def test_mirrored_images_are_kept_where_three_copies_fit(settings, kind):
    data = ImageDataModule(Given(), batch_size=5, **{"flip": True, **settings})
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, use_distributed_sampler=False)
    assert type(data.train_dataloader().source) is kind
