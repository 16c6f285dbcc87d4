"""Images of several sizes: one size a batch, every image once an epoch, and the same after a resumption."""

import collections
import itertools
import re

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from alphabar.data import Shape
from alphabar.data.image_sets.bucket_choice import choose_buckets, common_factor
from alphabar.data.image_sets.buckets import BucketedImages, nearest_buckets
from alphabar.data.loading.bucket_order import BucketOrder
from alphabar.data.loading.loader import ImageBatches, ImageLoader
from alphabar.data.sources.folder import Folder
from alphabar.errors import UserError

SIZES = ([8, 12], [12, 8], [8, 8])
BRIEF = ("trainer.max_steps=2", "callbacks.fid=null", "callbacks.film=null", "callbacks.curves=null")
COUNTS = {(20, 30): 13, (30, 20): 9, (24, 24): 6}  # (height, width): images


def make_photos(folder):
    """Images of three proportions, in which the blue of all pixels is the number of the image."""
    numbers = itertools.count()
    for (height, width), num in COUNTS.items():
        for index in itertools.islice(numbers, num):
            path = folder / "photos" / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            pixels = np.stack([*np.mgrid[:height, :width] * 8, np.full((height, width), 8 * index)], 2).astype(np.uint8)
            Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def photos():
    return str(runs.shared("buckets", make_photos) / "photos")


def data(photos, **settings):
    return Folder(photos, [8, 12], **{"held_out": 0, "buckets": SIZES, **settings})


def loader(photos, batch_size=4, rank=0, world_size=1, num_workers=0, crop=False):
    images = data(photos).train_set
    assert isinstance(images, BucketedImages)
    order = BucketOrder(images.buckets, batch_size, 3, rank, world_size)
    return ImageLoader(ImageBatches(images), order, flip=True, num_workers=num_workers, crop=crop)


def batches(loader, num):
    epochs = itertools.chain.from_iterable(itertools.repeat(loader))
    return [batch["image"] for batch in itertools.islice(epochs, num)]


def numbers(images):
    return [round(int(value) / 8) for value in images[:, 2].flatten(1).float().mean(1)]


def test_every_image_goes_to_the_nearest_proportions():
    shapes = [Shape(3, *size) for size in SIZES]
    sizes = torch.tensor([[100, 149], [149, 100], [90, 100], [10, 90]])
    assert nearest_buckets(sizes, shapes).tolist() == [0, 1, 2, 0]


CHOICES = {  # proportions and their images, resolution, factor, buckets
    "photographs": ({(20, 30): 50, (30, 20): 40, (30, 30): 20, (9, 16): 10}, (64, 64), 8, [(48, 88), (56, 80), (64, 64), (80, 56)]),
    "others are too few": ({(20, 30): 50, (30, 20): 4}, (64, 96), 8, [(64, 96)]),
    "squares alone": ({(30, 30): 50, (31, 30): 9}, (64, 64), 1, [(64, 64)]),
    "at most six": ({(20, 20 + 3 * number): 50 for number in range(20)}, (64, 64), 1, 6),
}


@pytest.mark.parametrize("case", CHOICES)
def test_buckets_are_chosen_by_what_they_save_from_being_cropped(case):
    counts, resolution, factor, expected = CHOICES[case]
    sizes = torch.tensor([size for size, num in counts.items() for _ in range(num)])
    found = choose_buckets(sizes, resolution, factor, min_images=5)
    assert (found if isinstance(expected, list) else len(found)) == expected
    assert all(side % factor == 0 for size in found for side in size)
    members = nearest_buckets(sizes, [Shape(3, *size) for size in found]).bincount(minlength=len(found))
    assert members.min() >= 5
    assert found == sorted(found, key=lambda size: size[0] / size[1])


def test_a_resolution_that_no_image_has_is_one_line_with_another():
    sizes = torch.tensor([[20, 30]] * 9 + [[30, 20]] * 8)
    message = r"no training image has about the proportions of data.resolution=64, .* most have those of data.resolution=\[56,80\]"
    with pytest.raises(UserError, match=message):
        choose_buckets(sizes, (64, 64), 8, 5)


def test_sides_are_multiples_of_what_the_network_divides_them_by():
    for factor in (1, 3, 8, 48):
        assert (
            common_factor(Shape(3, 48, 96), lambda shape, factor=factor: not (shape.height % factor or shape.width % factor))
            == factor
        )


@pytest.mark.parametrize("crop", [False, True])
def test_a_batch_has_one_size_and_every_image_is_seen_once_an_epoch(photos, crop):
    found = batches(loader(photos, crop=crop), 69)  # ten epochs of 28 images, without a rest of 4
    assert {tuple(images.shape[2:]) for images in found} == {(8, 12), (12, 8), (8, 8)}
    seen = collections.Counter(index for images in found for index in numbers(images))
    assert set(seen) == set(range(28))
    for bucket in (range(13), range(13, 22), range(22, 28)):
        times = [seen[index] for index in bucket]
        assert max(times) - min(times) <= 1  # but for a rest, which comes first later on
        assert all(9 <= each <= 10 for each in times)


def test_the_images_of_a_bucket_come_once_before_any_comes_again():
    order = BucketOrder(torch.tensor([0] * 13 + [1] * 9 + [2] * 6), 4, 3)
    stream = {bucket: [] for bucket in range(3)}
    for number in range(70):
        indices = order.indices(number).tolist()
        stream[0 if indices[0] < 13 else 1 if indices[0] < 22 else 2] += indices
    for bucket, (first, size) in enumerate(((0, 13), (13, 9), (22, 6))):
        epochs = [stream[bucket][start : start + size] for start in range(0, len(stream[bucket]) - size, size)]
        assert len(epochs) >= 8
        assert all(sorted(epoch) == list(range(first, first + size)) for epoch in epochs)
        assert epochs[0] != epochs[1]


def test_the_order_does_not_depend_on_interruptions_workers_or_ranks(photos):
    whole = batches(loader(photos, crop=True), 20)
    later = loader(photos, crop=True)
    later.load_state_dict({**later.state_dict(), "num_batches": 9})
    assert all(map(torch.equal, batches(later, 11), whole[9:]))
    assert all(map(torch.equal, batches(loader(photos, num_workers=1, crop=True), 20), whole))
    ranks = [batches(loader(photos, 2, rank, 2, crop=True), 20) for rank in (0, 1)]
    assert all(torch.equal(torch.cat(parts), images) for *parts, images in zip(*ranks, whole, strict=True))


def test_figures_and_held_out_images_have_the_size_of_the_set(photos):
    found = data(photos, held_out=0.4)
    assert found.train_set.images(range(5)).shape == found.held_out_set.images(range(5)).shape == (5, 3, 8, 12)
    assert len(data(photos, buckets=[[8, 12], [4, 64]]).train_set) == 28  # figures of other data need not have all buckets


def test_the_held_out_loss_is_of_images_in_their_own_sizes(photos):
    found = data(photos, held_out=0.4).held_out_in_buckets
    parts = found.split_by_shape(torch.arange(len(found)))
    assert sorted(torch.cat(parts).tolist()) == list(range(len(found)))
    batches = [found.training_batch(part, None)["image"] for part in parts]
    assert [tuple(images.shape[2:]) for images in batches] == [(8, 12), (12, 8), (8, 8)]
    first = [0, 13, 22, 28]  # image of each size, see `make_photos`
    assert all(first[part] <= number < first[part + 1] for part, images in enumerate(batches) for number in numbers(images))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"buckets": [[8, 12], [4, 64]]}, r"data.buckets: no training image has the proportions of \[4,64\]: leave it out"),
        ({"buckets": "auto"}, "data.buckets=auto: which ones depends on the network of a run; need a list of sizes"),
        ({"buckets": [[12, 8]]}, r"data.resolution=\[8,12\]: need one of data.buckets, that of samples and figures: \[12,8\]"),
    ],
    ids=str,
)
def test_buckets_without_images_or_without_the_resolution_are_one_line(photos, settings, line):
    with pytest.raises(UserError, match=line):
        data(photos, **settings).setup("fit")
    with pytest.raises(ValueError, match=r"data.resident=true .* need resident=null"):
        data(photos, resident=True)


def words(photos, network="unet_tiny"):
    kind = ("network.width=16", "network.depth=1", "network.num_heads=2") if network == "dit_tiny" else runs.TINY[1:3]
    tiny = [word for word in runs.TINY if not word.startswith(("network.", "callbacks.fid", "features", "data.batch"))]
    attention = () if network == "dit_tiny" else ("network.attention_resolutions=[6]",)
    buckets = "auto" if network == "dit_tiny" else "[[8,12],[12,8],[8,8]]"
    sizes = ("data.resolution=[8,12]", f"data.buckets={buckets}", "data.held_out=0.2", "data.batch_size=4")
    parts = ("preset=digits", f"network={network}", *kind, *attention, "features=none", "callbacks.held_out_loss.num=4")
    return ["data=folder", f"data.root={photos}", *sizes, *parts, *BRIEF], tiny


@pytest.mark.parametrize("network", ["unet_tiny", "dit_tiny"])
def test_one_network_learns_all_sizes_and_goes_on_exactly(command, photos, network):
    """Also where the sizes were chosen by the images: the run has written them down."""
    settings, tiny = words(photos, network)
    for folder, steps in (("whole", 7), ("part", 3)):
        code, _, err = command("train", *runs.words(*settings, f"trainer.max_steps={steps}", folder=folder, tiny=tiny))
        assert code == 0, err
    code, out, err = command("train", "resume=part", "trainer.max_steps=7")
    assert code == 0, err
    assert "buckets    8x12: 1" in out
    for folder in ("whole", "part"):
        _, height = runs.pixels(f"{folder}/samples/step_0000007.png")[0][1]
        assert 300 < height < 320  # 126 with the size of figures alone, and a row of each other one below
    whole, part = (runs.checkpoint(folder)["state_dict"] for folder in ("whole", "part"))
    assert all(torch.equal(weight, part[name]) for name, weight in whole.items())
    last, few = "checkpoint=whole/checkpoints/last.ckpt", ("num=2", "sampler.num_steps=2", "film=0")
    for size, folder in (("[12,8]", "tall"), ("null", "wide")):
        code, _, err = command("sample", last, f"resolution={size}", *few, f"hydra.run.dir={folder}")
        assert code == 0, err
        assert "trained on" not in err
    assert [runs.pixels(f"{folder}/images/000000.png")[0][1] for folder in ("tall", "wide")] == [(8, 12), (12, 8)]
    known = r"\[8,12\], 10, \[12,8\]" if network == "dit_tiny" else r"\[8,12\], \[12,8\], 8"
    code, _, err = command("sample", last, "resolution=[6,12]", *few, "hydra.run.dir=other")
    assert code == 0
    assert re.search(rf"resolution=\[6,12\]: this model was trained on images of {known}", err)
    code, _, err = command("sample", last, "resolution=[9,12]", *few, "hydra.run.dir=odd")
    assert code == 2
    assert err.count("\n") == 1
    assert "sides that are multiples of 2, got [9,12]: [8,12] or [10,12]" in err


def test_a_bucket_that_the_network_cannot_halve_is_one_line(command, photos):
    settings, tiny = words(photos)
    code, _, err = command("train", *runs.words(*settings, "data.buckets=[[8,12],[9,8]]", folder="out", tiny=tiny))
    assert code == 2
    assert err.count("\n") == 1
    assert "sides that are multiples of 2, got [9,8]" in err
