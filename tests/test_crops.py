"""Random crops: at another place in every epoch, the same after a resumption, with workers and with several processes."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from alphabar.data import Shape
from alphabar.data.decoding.pixels import to_pixels
from alphabar.data.loading.loader import ImageBatches, ImageLoader
from alphabar.data.loading.order import EpochOrder
from alphabar.data.sources.arrays import Arrays
from alphabar.data.sources.folder import Folder
from alphabar.errors import UserError

NUM = 12


@pytest.fixture
def photos(tmp_path):
    """Images four times as wide as high, in which the grey of a pixel is its column."""
    for index in range(NUM):
        columns = np.broadcast_to(np.arange(32, dtype=np.uint8) * 8, (8, 32))
        Image.fromarray(np.stack([columns, columns, np.full((8, 32), index, np.uint8)], 2)).save(tmp_path / f"{index}.png")
    return str(tmp_path)


def loader(photos, num_workers=0, rank=0, world_size=1):
    images = Folder(photos, 8, held_out=0, crop="random").train_set
    order = EpochOrder(NUM, 6 // world_size, 3, rank, world_size)
    return ImageLoader(ImageBatches(images), order, flip=False, num_workers=num_workers, crop=True)


def epochs(loader, num=2):
    return torch.cat([batch["image"] for _ in range(num) for batch in loader])


@pytest.mark.parametrize("crop", [(0.0, 0.0), (1.0, 1.0), (0.5, 0.25)])
def test_the_place_of_a_crop_goes_from_edge_to_edge(crop):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 20, 3), dtype=np.uint8))
    left = round(crop[1] * 12)
    wanted = torch.from_numpy(np.array(image.crop((left, 0, left + 8, 8)))).permute(2, 0, 1)
    assert torch.equal(to_pixels(image, Shape(3, 8, 8), crop=crop), wanted)
    tall = to_pixels(image.transpose(Image.Transpose.TRANSPOSE), Shape(3, 8, 8), crop=crop[::-1])
    assert torch.equal(tall, wanted.transpose(1, 2))


def test_every_epoch_sees_other_parts_of_the_same_images(photos):
    first, second = epochs(loader(photos)).split(NUM)
    lefts = [{int(image[2, 0, 0]): int(image[0, 0, 0]) for image in part} for part in (first, second)]
    assert set(lefts[0]) == set(lefts[1]) == set(range(NUM))
    assert sum(lefts[0][index] != lefts[1][index] for index in range(NUM)) > NUM / 2
    assert max(lefts[0].values()) - min(lefts[0].values()) > 80  # of 192


def test_crops_do_not_depend_on_workers_ranks_or_interruptions(photos):
    whole = epochs(loader(photos))
    assert torch.equal(epochs(loader(photos, num_workers=1)), whole)
    later = loader(photos)
    later.load_state_dict({**later.state_dict(), "num_batches": 3})
    assert torch.equal(next(iter(later))["image"], whole[18:24])
    shares = [epochs(loader(photos, rank=rank, world_size=2)).split(3) for rank in (0, 1)]
    assert torch.equal(torch.cat(list(itertools.chain(*zip(*shares, strict=True)))), whole)


def test_held_out_images_and_figures_see_the_centre(photos):
    data = Folder(photos, 8, held_out=0.5, crop="random")
    assert len(data.held_out_set) > 0
    assert (data.held_out_set.images(range(2))[:, 0, 0, 0].int() - 12 * 8).abs().max() <= 8
    assert torch.equal(data.train_set.images(range(2)), Folder(photos, 8, held_out=0.5).train_set.images(range(2)))


def test_images_that_are_not_cropped_are_refused_in_one_line(photos, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((4, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"data.crop=random: .* need data.crop=center$"):
        assert Arrays(str(tmp_path / "images.npy"), held_out=0, crop="random").train_set
    with pytest.raises(ValueError, match=r"data.resident=true keeps images cropped in their centre"):
        Folder(photos, 8, crop="random", resident=True)


def test_a_run_with_crops_goes_on_as_an_uncut_one(command, photos):
    words = ("data=folder", f"data.root={photos}", "data.resolution=8", "data.crop=random", "preset=digits", "features=none")
    tiny = [word for word in runs.TINY if not word.startswith(("callbacks.fid", "features", "callbacks.held", "data."))]
    few = ("data.batch_size=4", "data.held_out=0", "callbacks.held_out_loss=null", *runs.BRIEF, "callbacks.fid=null")
    for folder, steps in (("whole", 5), ("part", 3)):
        code, _, err = command("train", *runs.words(*words, *few, f"trainer.max_steps={steps}", folder=folder, tiny=tiny))
        assert code == 0, err
    code, _, err = command("train", "resume=part", "trainer.max_steps=5")
    assert code == 0, err
    whole, part = (runs.checkpoint(folder)["state_dict"] for folder in ("whole", "part"))
    assert all(torch.equal(weight, part[name]) for name, weight in whole.items())
