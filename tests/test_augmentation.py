"""The augmentation of EDM: what it does to images, what the network is told, and that samples are none of it."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from alphabar.diffusion.noise import RankShare
from alphabar.models.augmentations.edm import NUM_LABELS, EDMAugmentation, Transformation
from alphabar.models.networks import ConditionReader
from alphabar.models.networks.unet import UNet


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (64, 3, 8, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def smooth(size=33):
    """An image without detail, which bicubic interpolation does not change much: [1, 1, size, size] in [-1, 1]."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    return (0.6 * torch.sin(2 * rows + 0.5) * torch.cos(1.5 * columns - 0.3))[None, None]


def only(num=1, **values):
    """The transformation that does this alone."""
    return Transformation(**{name: torch.full((num,), float(values.get(name, 0))) for name in Transformation._fields})


def middle(x):
    return x[..., 8:-8, 8:-8]


def test_without_probability_images_and_labels_are_untouched(images):
    found = EDMAugmentation(p=0.0)(images, RankShare(seed=1))
    assert torch.equal(found.images, images)
    assert torch.equal(found.labels, torch.zeros(64, NUM_LABELS))


def test_an_image_whose_labels_are_zero_is_itself_to_the_bit(images):
    many = images.repeat(20, 1, 1, 1)
    found = EDMAugmentation(p=0.12)(many, RankShare(seed=1))
    still = (found.labels == 0).all(1)
    assert torch.equal(found.images[still], many[still])
    assert (found.images[~still] != many[~still]).flatten(1).any(1).float().mean() > 0.95  # some shifts are of no pixel's worth
    coins = (1 - 0.12 / 2) ** 2 * 0.88**4  # a mirroring that is due happens to half
    assert still.float().mean().item() == pytest.approx(coins, abs=0.04)
    assert found.images.dtype == torch.uint8


def test_mirrored_images_are_those_of_torch(images):
    assert torch.equal(only(64, x_flip=1).apply(images), images.flip(3))
    assert torch.equal(only(64, y_flip=1).apply(images), images.flip(2))
    assert only(x_flip=1).labels().tolist() == [[1, 0, 0, 0, 0, 0, 0, 0, 0]]


def test_shifts_turns_and_scales_are_those_of_the_plane():
    x = smooth()
    right = only(right=2 / (0.125 * 33)).apply(x)  # two pixels
    assert torch.allclose(middle(right), middle(x.roll(2, 3)), atol=1e-5)
    down = only(down=-3 / (0.125 * 33)).apply(x)
    assert torch.allclose(middle(down), middle(x.roll(-3, 2)), atol=1e-5)
    assert torch.allclose(only(angle=math.pi / 2).apply(x), torch.rot90(x, 1, (2, 3)), atol=1e-4)
    larger = only(scale=1 / 0.2).apply(x)  # an octave: 17 pixels of it fill the image
    assert torch.allclose(larger[0, 0, ::2, ::2], x[0, 0, 8:25, 8:25], atol=1e-3)
    wide = only(stretch=1 / 0.2).apply(x)
    assert torch.allclose(wide[0, 0, 16, ::2], x[0, 0, 16, 8:25], atol=1e-3)
    tall = only(stretch=1 / 0.2, stretch_angle=math.pi / 2).apply(x)
    assert torch.allclose(tall[0, 0, ::2, 16], x[0, 0, 8:25, 16], atol=1e-3)


def test_shifts_are_in_sides_of_rectangles():
    x = torch.zeros(1, 1, 8, 16)
    x[0, 0, 4, 8] = 1
    moved = only(right=1, down=-1).apply(x)  # an eighth: 2 pixels to the right and 1 up
    assert moved[0, 0].argmax().item() == 3 * 16 + 10


def test_what_a_row_draws_does_not_depend_on_the_number_of_devices(images):
    whole = EDMAugmentation(p=0.5)(images, RankShare(seed=7))
    halves = [EDMAugmentation(p=0.5)(part, RankShare(rank, 2, 7)) for rank, part in enumerate(images.split(32))]
    assert torch.equal(torch.cat([half.images for half in halves]), whole.images)
    assert torch.equal(torch.cat([half.labels for half in halves]), whole.labels)


def test_a_network_that_is_told_nothing_is_told_zeros():
    torch.manual_seed(0)
    network = UNet(1, 8, 8, [1, 2], 1, [], norm_groups=4, vector_channels=2, augmentation_channels=9)
    torch.nn.init.normal_(network.conv_out.weight)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    x, label, vector = torch.randn(3, 1, 8, 8), torch.zeros(3), torch.randn(3, 2)
    told = {"vector": vector, "augmentation": torch.zeros(3, 9)}
    assert torch.equal(network(x, label, {"vector": vector}), network(x, label, told))
    assert not torch.equal(network(x, label, told), network(x, label, {**told, "augmentation": torch.ones(3, 9)}))
    with pytest.raises(ValueError, match=r"reads no augmentation, .* set network.augmentation_channels=9"):
        ConditionReader(2).read(told, x)


WORDS = ("conditioner=class_label", "guidance=classifier_free", "augmentation=edm", "augmentation.p=0.5")


@pytest.fixture(scope="module")
def trained():
    return runs.trained(*runs.BRIEF, *WORDS, "trainer.max_steps=4")


def test_a_run_goes_on_exactly_and_evaluates_and_samples_unaugmented(command, trained):
    short = runs.words(*runs.BRIEF, *WORDS, "trainer.max_steps=2", folder="part")
    code, _, err = command("train", *short)
    assert code == 0, err
    code, _, err = command("train", "resume=part", "trainer.max_steps=4")
    assert code == 0, err
    whole, part = (runs.checkpoint(folder)["state_dict"] for folder in (trained, "part"))
    assert all(torch.equal(weight, part[name]) for name, weight in whole.items())
    assert part["denoiser.network.embedding.vector.weight"].shape[1] == 128 + 9
    last = f"checkpoint={trained}/checkpoints/last.ckpt"
    guided = ("guidance=classifier_free", "guidance.weight=2", "labels=[3]", "num=2", "sampler.num_steps=2")
    code, _, err = command("sample", last, *guided, "hydra.run.dir=drawn")
    assert code == 0, err
    with Image.open("drawn/images/000001.png") as image:
        assert np.asarray(image).shape == (8, 8)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["network=simple_unet"], "set network.augmentation_channels=9, or choose a network that has this key"),
        (["augmentation.p=2"], "need 0 <= p <= 1, got p=2"),
    ],
    ids=str,
)
def test_what_does_not_go_with_it_is_one_line(command, words, line):
    tiny = [word for word in runs.TINY if not word.startswith("network.") or "simple_unet" not in str(words)]
    code, _, err = command("train", *runs.words(*runs.BRIEF, "augmentation=edm", *words, folder="out", tiny=tiny))
    assert code == 2
    assert err.count("\n") == 1
    assert line in err
