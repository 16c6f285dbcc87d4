"""Images that are not square: data.resolution=[height, width], through every command."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import runs
from alphabar.data import Shape
from alphabar.data.decoding.pixels import to_pixels
from alphabar.data.loading.order import EpochOrder
from alphabar.data.sources.folder import FolderSource
from alphabar.diffusion.noise import ImageNoise, RankShare, derive_seed
from alphabar.diffusion.samplers.dpmpp_2m import DPMpp2M
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.models.conditioners.low_resolution import LowResolution
from alphabar.models.networks.diffusers import from_diffusers, to_diffusers
from alphabar.models.networks.dit import DiT
from alphabar.models.networks.unet import UNet
from alphabar.resolution import format_resolution, nearest_multiples, resolution_of, sides
from alphabar.sampling.tasks.mask import known_pixels
from oracle import GaussianDenoiser

WIDE = "data.resolution=[6,8]"


def make_photos(folder):
    """60 photographs of two classes and of many sizes, of which all pixels tell where they were."""
    generator = np.random.default_rng(0)
    for index in range(60):
        height, width = generator.integers(16, 40, 2)
        rows, columns = np.mgrid[:height, :width]
        pixels = np.stack([rows * 6, columns * 6, np.full_like(rows, 4 * index)], 2)
        path = folder / "photos" / ("cat", "dog")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def photos():
    return runs.shared("rectangles", make_photos) / "photos"


def tiny_words(photos):
    """The words of a run of a few seconds on the photographs."""
    few = ("data.held_out=0.5", "data.batch_size=8", "features=pixels", "callbacks.fid.num=16", "features.max_images=30")
    return ("data=folder", f"data.root={photos}", WIDE, "preset=digits", *few, "trainer.max_steps=20")


@pytest.fixture(scope="module")
def trained(photos):
    return runs.trained(*tiny_words(photos))


def test_a_resolution_is_one_number_for_squares_and_two_for_others():
    assert sides(64) == sides([64, 64]) == (64, 64)
    assert sides([48, 64]) == (48, 64)
    assert (resolution_of(64, 64), resolution_of(48, 64)) == (64, [48, 64])
    assert (format_resolution(64), format_resolution([48, 64])) == ("64", "[48,64]")
    assert nearest_multiples([50, 64], 8) == "[48,64] or [56,64]"
    assert Shape.of(3, [48, 64]) == (3, 48, 64)
    for wrong, line in (([48, 64, 3], "one resolution, or two"), ([0, 8], r"resolution >= 1, got resolution=\[0,8\]")):
        with pytest.raises(ValueError, match=line):
            sides(wrong)


@pytest.mark.parametrize(
    ("size", "box"),
    [((40, 40), (0, 10, 40, 30)), ((20, 40), (0, 15, 20, 25)), ((60, 20), (10, 0, 50, 20)), ((40, 20), (0, 0, 40, 20))],
)
def test_an_image_is_cropped_to_the_centred_part_of_the_proportions(size, box):
    width, height = size
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    found = to_pixels(image.copy(), Shape(3, 8, 16))
    wanted = image.resize((16, 8), Image.Resampling.LANCZOS, box=box)
    assert found.shape == (3, 8, 16)
    assert torch.equal(found, torch.from_numpy(np.array(wanted)).permute(2, 0, 1))


def test_the_images_of_a_square_have_the_fingerprint_that_they_had(photos):
    square, wide = FolderSource(str(photos), 8), FolderSource(str(photos), [8, 12])
    assert square.fingerprint() == FolderSource(str(photos), [8, 8]).fingerprint() != wide.fingerprint()
    assert wide.train().images(range(2)).shape == (2, 3, 8, 12)


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (lambda size: UNet(1, size, 8, [1, 1, 1], 1, [], norm_groups=4), "multiple of 4.*data.resolution=.12,16. or 16"),
        (
            lambda size: DiT(1, size, patch_size=4, width=16, depth=1, num_heads=2),
            "patch_size=4.*data.resolution=.12,16. or 16",
        ),
    ],
)
def test_a_side_that_cannot_be_halved_is_refused_with_the_nearest_sizes(network, line):
    with pytest.raises(ValueError, match=line):
        network([14, 16])
    y = network([12, 16])(torch.randn(2, 1, 12, 16), torch.zeros(2))
    assert y.shape == (2, 1, 12, 16)


def test_attention_follows_the_longer_side():
    network = UNet(1, [12, 16], 8, [1, 1, 1], 1, [8], norm_groups=4)
    assert network.attends == UNet(1, 16, 8, [1, 1, 1], 1, [8], norm_groups=4).attends == [False, True, False]


def test_rows_and_columns_change_places_with_the_image():
    """What DiT knows of positions is the row and the column, whatever the sides."""
    torch.manual_seed(0)
    wide, tall = DiT(1, [4, 8], 2, 16, 1, 2), DiT(1, [8, 4], 2, 16, 1, 2)
    half = wide.positions.shape[1] // 2
    turned = torch.cat([wide.positions[:, half:], wide.positions[:, :half]], 1).view(2, 4, -1).transpose(0, 1).flatten(0, 1)
    assert torch.equal(turned, tall.positions)


def test_a_network_of_rectangles_goes_to_diffusers_and_back():
    torch.manual_seed(0)
    network = UNet(1, [8, 12], 8, [1, 2], 1, [6], norm_groups=4)
    again = from_diffusers(*to_diffusers(network))
    x, label = torch.randn(2, 1, 8, 12), torch.tensor([3.0, 900.0])
    assert again.attends == network.attends == [False, True]
    assert torch.equal(again(x, label), network(x, label))


def test_the_oracle_holds_on_rectangles():
    """Samples of N(0.2, 0.3^2) in every pixel of 6x10 have that mean and that variance."""
    denoiser = GaussianDenoiser(LinearSchedule(1000), 0.2, 0.3)
    sampler = DPMpp2M(num_steps=150)
    x = sampler.sample(denoiser, sampler.start(denoiser.schedule, ImageNoise(0, range(200))(torch.empty(200, 3, 6, 10))))
    assert x.shape == (200, 3, 6, 10)
    assert x.mean().item() == pytest.approx(0.2, abs=0.01)
    assert x.std().item() == pytest.approx(0.3, abs=0.01)
    assert x.mean(0).std().item() < 0.05


def test_low_resolutions_have_the_same_proportions():
    conditioner = LowResolution(3, [8, 12], [4, 6], width=8, sample_level=0.0).eval()
    images = torch.randint(0, 256, (2, 3, 8, 12), dtype=torch.uint8)
    low = F.interpolate(images.float(), (4, 6), mode="bicubic", antialias=True).round().clamp(0, 255) / 127.5 - 1
    cond = conditioner({"image": images})
    assert torch.allclose(cond["image"], F.interpolate(low, (8, 12), mode="bilinear"), atol=1e-5)
    assert conditioner.null(2)["image"].shape == (2, 3, 8, 12)
    with pytest.raises(ValueError, match=r"resolution < \[8,12\].*same proportions.*got resolution=4"):
        LowResolution(3, [8, 12], 4, width=8)


def test_words_hide_parts_of_rectangles():
    assert known_pixels("center", 8, 12).sum() == 96 - 4 * 6
    assert not known_pixels("left", 8, 12)[0, :, :6].any()
    assert not known_pixels("bottom", 8, 12)[0, 4:].any()


def test_the_loss_of_a_step_is_that_of_plain_torch(command, trained, photos):
    """Step 21 of the run, from the weights of its checkpoint, written down without the project's objective and schedule."""
    code, _, err = command(
        "train", f"resume={shutil.copytree(trained, 'more')}", "trainer.max_steps=21", "trainer.log_every_n_steps=1"
    )
    assert code == 0, err
    (logged,) = [
        float(row["train/loss"]) for row in runs.table(Path("more/metrics.csv")) if row["step"] == "21" and row["train/loss"]
    ]
    content = runs.checkpoint(trained)
    network = UNet(**{key: value for key, value in content["config"]["network"].items() if key != "_target_"})
    prefix = "denoiser.network."
    network.load_state_dict({key[len(prefix) :]: value for key, value in content["state_dict"].items() if key.startswith(prefix)})
    images, seed = FolderSource(str(photos), [6, 8], held_out=0.5).train(), content["config"]["seed"]
    order = EpochOrder(len(images), 8, seed)
    epoch, batch_idx = divmod(20, order.num_batches)
    x = images.images(order.indices(epoch)[batch_idx]).float() / 127.5 - 1
    share = RankShare(seed=derive_seed("step", seed, 20, batch_idx, 0))
    t = 1 + (share.rand(8, x.device) * 1000).long()
    eps = share.randn_like(x)
    alpha_bar = torch.cat([torch.ones(1), (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)])[t].float()
    scale = alpha_bar.view(-1, 1, 1, 1)
    with torch.no_grad():
        found = network(scale.sqrt() * x + (1 - scale).sqrt() * eps, t.float() - 1)
    assert x.shape == (8, 3, 6, 8)
    assert logged == pytest.approx(F.mse_loss(found, eps).item(), rel=1e-5)


@pytest.mark.parametrize("network", ["simple_unet", "dit_tiny"])
def test_other_networks_train_on_rectangles(command, photos, network):
    small = ("network.width=16", "network.depth=1", "network.num_heads=2") if network == "dit_tiny" else ()
    tiny = [word for word in runs.TINY if not word.startswith("network.")]
    data = (*(word for word in tiny_words(photos) if "max_steps" not in word), f"network={network}", *small)
    code, _, err = command("train", *runs.words(*data, *runs.BRIEF, folder="out", tiny=tiny))
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("words", "shapes"),
    [
        (["task=generate"], {"{:06d}": (6, 8, 3)}),
        (["task=inpaint", "task.mask=left", "task.num_fillings=1", "task.num_resamples=1"], {"{:06d}_filling0": (6, 8, 3)}),
        (["task=interpolate", "task.num_frames=2"], {"{:06d}_frame01": (6, 8, 3)}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_samples_and_edits_are_rectangles(command, trained, words, shapes):
    last = trained / "checkpoints" / "last.ckpt"
    code, _, err = command("sample", f"checkpoint={last}", "num=3", "sampler.num_steps=3", "hydra.run.dir=drawn", *words)
    assert (code, err) == (0, "")
    for name, shape in shapes.items():
        for index in range(3):
            with Image.open(f"drawn/images/{name.format(index)}.png") as image:
                assert np.asarray(image).shape == shape
    with Image.open("drawn/grid.png") as grid:
        assert grid.width != grid.height


def test_samples_of_rectangles_are_evaluated(command, trained):
    last = trained / "checkpoints" / "last.ckpt"
    few = ("num=16", "sampler.num_steps=2", "features=pixels", "features.max_images=30", "statistics.kid=null")
    words = (*few, f"features.cache_dir={runs.CACHE}", "statistics.fid.allow_few=true")
    code, _, err = command("evaluate", f"checkpoint={last}", *words, "hydra.run.dir=judged")
    assert code == 0, err
    assert any(name.startswith("fid/") for name in runs.figures("judged"))


def test_the_likelihood_of_rectangles_is_per_number(command, trained):
    last = trained / "checkpoints" / "last.ckpt"
    code, _, err = command("evaluate", f"checkpoint={last}", "metric=bpd", "num=4", "metric.bpd_steps=3", "hydra.run.dir=bits")
    assert code == 0, err


def test_a_cascade_of_rectangles(command, trained, photos):
    larger = [word for word in tiny_words(photos) if not word.startswith("data.resolution")]
    words = (
        "data.resolution=[12,16]",
        "network.attention_resolutions=[8]",
        "conditioner=low_resolution",
        "conditioner.resolution=[6,8]",
    )
    upper = runs.trained(*larger, *words) / "checkpoints" / "last.ckpt"
    stages = f"stages=[{trained}/checkpoints/last.ckpt]"
    code, _, err = command("sample", f"checkpoint={upper}", stages, "num=2", "sampler.num_steps=2", "hydra.run.dir=drawn")
    assert (code, err) == (0, "")
    with Image.open("drawn/images/000001.png") as image:
        assert image.size == (16, 12)


def test_a_size_that_the_network_cannot_halve_is_one_line(command, photos):
    code, _, err = command("train", *runs.words(*tiny_words(photos)[:2], "data.resolution=[9,12]", "preset=digits", folder="out"))
    assert code == 2
    assert err.count("\n") == 1
    assert "got resolution=[9,12]" in err
    assert "data.resolution=[8,12] or [10,12]" in err
