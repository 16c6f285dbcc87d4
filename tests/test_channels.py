"""Images of other channels than grey and RGB: read, trained on, shown and evaluated."""

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from alphabar.data import Shape
from alphabar.data.decoding.pixels import to_pixels
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.sources.folder import Folder
from alphabar.errors import UserError
from alphabar.metrics import Splits, build_extractors
from alphabar.metrics.extractor import Extractor
from alphabar.sampling.image_grid import grid, to_pil, visible

CLEAR_GREEN, RED = (0, 255, 0, 0), (255, 0, 0, 255)


def test_rgba_stays_as_it_is_where_it_is_asked_for(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (6, 8, 8, 4)).astype(np.uint8)
    for index, each in enumerate(pixels):
        Image.fromarray(each).save(tmp_path / f"{index}.png")
    found = Folder(str(tmp_path), 8, channels=4, held_out=0).train_set.images(range(6)).permute(0, 2, 3, 1)
    assert sorted(found.flatten(1).tolist()) == sorted(pixels.reshape(6, -1).tolist())
    assert Folder(str(tmp_path), 8, held_out=0).shape.channels == 3


@pytest.mark.parametrize(
    ("mode", "value", "expected"), [("L", 7, (7, 7, 7, 255)), ("LA", (7, 9), (7, 7, 7, 9)), ("RGB", (1, 2, 3), (1, 2, 3, 255))]
)
def test_other_modes_become_rgba(mode, value, expected):
    image = to_pixels(Image.new(mode, (4, 4), value), Shape(4, 4, 4))
    assert image.flatten(1).T.unique(dim=0).tolist() == [list(expected)]


def test_the_colour_of_what_cannot_be_seen_does_not_reach_what_can():
    """Half of the columns are red, the others a green that nobody sees: smaller, it is half as red, and not green."""
    image = Image.new("RGBA", (16, 16), CLEAR_GREEN)
    image.paste(RED, (0, 0, 7, 16))
    red, green, blue, alpha = to_pixels(image, Shape(4, 4, 4))
    assert sorted(set(alpha[0].tolist())) not in ([0, 255], [0], [255])
    assert green[alpha > 10].max() <= 2
    assert red[alpha > 10].min() >= 250
    assert blue.max() == 0


def test_pictures_show_every_number_of_channels():
    for channels in (1, 2, 3, 4, 5, 13):
        images = torch.randint(0, 256, (3, channels, 4, 6), dtype=torch.uint8)
        shown = visible(images)
        assert tuple(shown.shape) == ((3, 3, 4, 6) if channels in (3, 4) else (3, 1, 4, 6 * channels))
        picture = to_pil(grid(images))
        assert picture.mode == ("RGB" if channels in (3, 4) else "L")
        assert to_pil(images[0]).mode == {3: "RGB", 4: "RGBA"}.get(channels, "L")
    five = torch.arange(5, dtype=torch.uint8)[None, :, None, None].expand(1, 5, 4, 6)
    assert visible(five)[0, 0, 0, ::6].tolist() == [0, 1, 2, 3, 4]
    clear = torch.tensor([0, 0, 0, 0], dtype=torch.uint8)[None, :, None, None]
    half = torch.tensor([255, 0, 0, 51], dtype=torch.uint8)[None, :, None, None]
    assert [visible(each).flatten().tolist() for each in (clear, half)] == [[255, 255, 255], [255, 204, 204]]
    assert visible(clear.expand(1, 4, 2, 3))[0, 2].tolist() == [
        [255, 215, 255],
        [215, 255, 215],
    ]  # so that white is seen, and edges


class ThreeChannels:
    reads_captions = False

    def extractors(self, splits):
        network = torch.nn.Flatten()
        return [Extractor(network, 3, "colours", "", (1, 3), 9, None)]


def test_features_of_colours_are_refused_for_other_channels():
    images = ResidentImages(torch.zeros(4, 5, 8, 8, dtype=torch.uint8), None)
    with pytest.raises(
        UserError, match=r"^features: colours takes images of 1 or 3 channels, these have 5; selfsup takes any number$"
    ):
        build_extractors(ThreeChannels(), Splits(images, images, ""))


@pytest.mark.parametrize("channels", [4, 5])
def test_a_run_on_images_of_other_channels_is_trained_sampled_and_evaluated(command, tmp_path, channels):
    pixels = np.random.RandomState(0).randint(0, 256, (48, 8, 8, channels)).astype(np.uint8)
    np.savez("x.npz", images=pixels)
    tiny = [
        *runs.TINY,
        "data.batch_size=8",
        "trainer.max_steps=2",
        "callbacks.fid.num=8",
        "network=unet_tiny",
        "features.max_images=16",
    ]
    code, out, err = command("train", *runs.words("data=arrays", "data.path=x.npz", folder="run", tiny=tiny))
    assert code == 0, err
    assert ("8x8 RGBA" if channels == 4 else "8x8 of 5 channels") in out
    for name in ("samples/step_0000002.png", "film.png", "film.gif"):
        assert (tmp_path / "run" / name).exists()
    words = ["checkpoint=run", "sampler.num_steps=2", "num=8"]
    for kind in ("png", "npz"):
        code, _, err = command("sample", *words, "film=2", f"format={kind}", f"hydra.run.dir={kind}")
        assert code == 0, err
    with np.load("npz/images.npz") as file:
        assert file["images"].shape == (8, 8, 8, channels)
        with Image.open("png/images/000003.png") as picture:
            found = np.asarray(picture)
        expected = file["images"][3] if channels == 4 else np.concatenate(list(file["images"][3].transpose(2, 0, 1)), axis=1)
        assert (found == expected).all()
    samples = "samples=npz/images.npz" if channels == 5 else "samples=png/images"
    settings = [
        "metric=fid",
        "statistics.fid.allow_few=true",
        "features=selfsup",
        "features.max_images=16",
        f"features.cache_dir={runs.CACHE}",
    ]
    code, _, err = command("evaluate", samples, "data=arrays", "data.path=x.npz", *settings, "hydra.run.dir=judged")
    assert code == 0, err
