"""Images of 16 bits: read, trained on, sampled, edited and evaluated without a loss of their range."""

import json
import struct
import zlib

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch.utils.data import DataLoader

import alphabar
import runs
from alphabar.bits import rounded_to_uint8, with_bits
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.sources.arrays import Arrays
from alphabar.data.sources.dataset import MapDataset
from alphabar.data.sources.folder import Folder
from alphabar.data.sources.own_datamodule import adapted
from alphabar.errors import UserError
from alphabar.models.augmentations.edm import EDMAugmentation
from alphabar.models.codecs.pixels import Pixels, to_uint16
from test_image_files import chunk, png_with

RAMP = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
TINY = [*runs.TINY, "data.batch_size=8", "callbacks.fid.num=8", "network=unet_tiny", "features.max_images=16"]
ARRAYS = ["data=arrays", "data.path=x.npz", "data.bits=16"]


class Ramps:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return RAMP


def one_file(path, name):
    (path / "images").mkdir()
    Image.fromarray(RAMP).save(path / "images" / name)
    return Folder(str(path / "images"), 256, channels=1, held_out=0, bits=16)


def one_array(path, name):
    np.save(path / name, RAMP[None])
    return Arrays(str(path / name), held_out=0, bits=16)


@pytest.mark.parametrize(
    "data",
    [
        lambda path: one_file(path, "x.png"),
        lambda path: one_file(path, "x.tif"),
        lambda path: one_array(path, "x.npy"),
        lambda path: MapDataset(Ramps(), held_out=0, bits=16),
    ],
    ids=["png", "tiff", "npy", "dataset"],
)
def test_every_value_comes_back_from_model_space(tmp_path, data):
    codec, images = Pixels(bits=16), data(tmp_path).train_set.images([0])
    assert images.numpy().tolist() == [[RAMP.tolist()]]
    x = codec.encode(images)
    assert (x.min(), x.max(), x.unique().numel()) == (-1, 1, 2**16)
    assert codec.decode(x).equal(images)
    assert rounded_to_uint8(images).equal(torch.from_numpy(np.rint(RAMP / 257).astype(np.uint8))[None, None])


def test_bytes_and_values_of_16_bits_lead_to_one_another():
    eight = torch.arange(256, dtype=torch.uint8)
    wide = with_bits(eight, 16)
    assert wide.tolist() == [257 * value for value in range(256)]
    assert with_bits(wide, 8).equal(eight)
    assert Pixels().encode(wide).equal(Pixels().encode(eight))
    assert to_uint16(torch.tensor([float("nan"), -3, 0.0, 3])).tolist() == [0, 0, 32768, 65535]


@pytest.mark.parametrize("resident", [True, False])
def test_equal_images_are_equal_batches_wherever_they_come_from(tmp_path, resident):
    """They are cropped and scaled, too, and mirrored."""
    pixels = np.random.RandomState(0).randint(0, 2**16, (40, 10, 12)).astype(np.uint16)
    (tmp_path / "images").mkdir()
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(tmp_path / "images" / f"{number:06d}.png")
    np.savez(tmp_path / "x.npz", images=pixels)
    options = {"resolution": 8, "channels": 1, "held_out": 0.3, "bits": 16, "resident": resident}
    files, arrays = Folder(str(tmp_path / "images"), **options), Arrays(str(tmp_path / "x.npz"), **options)
    for one, other in ((files.train_set, arrays.train_set), (files.held_out_set, arrays.held_out_set)):
        assert isinstance(one, ResidentImages) is resident
        rows = torch.arange(len(one))
        assert one.images(rows).dtype == torch.uint16
        assert one.images(rows).equal(other.images(rows))
        assert one.images(rows).unique().numel() > 500
    assert files.source.fingerprint() != Folder(str(tmp_path / "images"), **{**options, "bits": 8}).source.fingerprint()


def test_values_of_16_bits_take_twice_the_memory(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((10, 256, 256), dtype=np.uint16))
    found = [Arrays(str(tmp_path / "x.npy"), held_out=0, max_resident_mb=1, bits=bits).train_set for bits in (8, 16)]
    assert [isinstance(images, ResidentImages) for images in found] == [True, False]


def saved(pixels, path):
    Image.fromarray(pixels).save(path)


def png_16(num_channels, kind):
    """Returns a PNG with 16 bits in each of several channels; kind: 2 for RGB, 4 for grey with transparency."""
    head = struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x9c\x40" * 8 * num_channels) * 8)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "write", "expected"),
    [
        ("x.png", lambda path: saved(np.full((8, 8), 200, np.uint8), path), 200 * 257),
        ("x.png", lambda path: saved(np.full((8, 8, 3), 200, np.uint8), path), 200 * 257),
        ("x.png", lambda path: saved(np.full((8, 8), 4000, np.uint16), path), 4000),
        ("x.tif", lambda path: saved(np.full((8, 8), 4000, np.int32), path), 4000),
        ("x.tif", lambda path: saved(np.full((8, 8), 0.25, np.float32), path), 16384),
        (
            "x.png",
            lambda path: path.write_bytes(png_with(chunk(b"tRNS", b"\x0f\xa0"), Image.fromarray(np.full((8, 8), 4000, np.uint16)))),
            65535,
        ),
        ("x.tif", lambda path: saved(np.full((8, 8), 70_000, np.int32), path), "pixels from 70000 to 70000: need 0 to 65535"),
        ("x.tif", lambda path: saved(np.full((8, 8), 1.5, np.float32), path), "pixels from 1.5 to 1.5: need 0 to 1"),
        ("x.png", lambda path: path.write_bytes(png_16(3, 2)), "Pillow reads colours of 16 bits as 8"),
        ("x.png", lambda path: path.write_bytes(png_16(2, 4)), "Pillow reads colours of 16 bits as 8"),
        ("x.ppm", lambda path: path.write_bytes(b"P6 8 8 65535 " + b"\x9c\x40" * 192), "Pillow reads colours of 16 bits as 8"),
    ],
    ids=["L", "RGB", "12 bits", "32 bits", "floats", "transparent", "too large", "above 1", "RGB 16", "LA 16", "PPM"],
)
def test_nothing_is_guessed(tmp_path, name, write, expected):
    write(tmp_path / name)
    images = Folder(str(tmp_path), 8, channels=1, held_out=0, strict=True, bits=16)
    if isinstance(expected, int):
        assert images.train_set.images([0]).unique().tolist() == [expected]
    else:
        with pytest.raises(UserError, match=expected):
            images.train_set  # noqa: B018


def test_an_augmentation_keeps_the_values_that_it_does_not_change():
    images = torch.from_numpy(RAMP).view(1, 1, 256, 256)
    found, _ = EDMAugmentation(p=1e-9)(images)
    assert Pixels(bits=16).decode(found).equal(images)


def write_cells(num=60, side=8, channels=1):
    """Writes smooth images uint16 into x.npz and, if they are grey, images/."""
    place = np.linspace(0, 1, side)
    phases = np.random.RandomState(0).rand(num, channels, 2)
    waves = np.stack([[np.outer(np.sin(3 * place + a), np.cos(2 * place + b)) for a, b in each] for each in phases])
    pixels = np.rint((waves + 1) * 32767.5).astype(np.uint16)
    np.savez("x.npz", images=pixels[:, 0] if channels == 1 else np.moveaxis(pixels, 1, 3))
    return pixels


def test_a_run_is_trained_resumed_sampled_edited_and_evaluated(command, tmp_path):
    pixels = write_cells()
    code, out, err = command("train", *runs.words(*ARRAYS, "trainer.max_steps=2", folder="run", tiny=TINY))
    assert code == 0, err
    assert "8x8 grey, 16 bits, of which pictures and features show 8" in out
    code, _, err = command("train", "resume=run", "trainer.max_steps=4")
    assert code == 0, err
    with Image.open("run/samples/step_0000004.png") as picture:
        assert picture.mode == "L"

    for kind in ("png", "npz"):
        words = ["checkpoint=run", "sampler.num_steps=2", "num=8", "film=2", f"format={kind}", f"hydra.run.dir={kind}"]
        code, _, err = command("sample", *words)
        assert code == 0, err
    with np.load("npz/images.npz") as file:
        samples = file["images"]
    assert (samples.dtype, samples.shape) == (np.uint16, (8, 8, 8, 1))
    assert len(np.unique(samples)) > 256
    for index, expected in enumerate(samples):
        with Image.open(f"png/images/{index:06d}.png") as picture:
            assert picture.mode == "I;16"
            assert (np.asarray(picture) == expected[..., 0]).all()

    words = ["metric=fid", "statistics.fid.allow_few=true", "features=selfsup", "features.max_images=16"]
    words.append(f"features.cache_dir={runs.CACHE}")
    receipts = []
    for which in ("png/images", "npz/images.npz"):
        code, _, err = command("evaluate", f"samples={which}", *ARRAYS, *words, f"hydra.run.dir=judged/{which}")
        assert code == 0, err
        receipts.append(json.loads((tmp_path / "judged" / which / "receipt.json").read_text()))
    assert receipts[0]["figures"] == receipts[1]["figures"]
    assert receipts[0]["protocol"]["bits"] == "8 of 16, rounded"

    saved(pixels[0, 0], "one.png")
    words = ["checkpoint=run", "images=one.png", "sampler.num_steps=2", "num=1"]
    code, out, err = command("sample", "task=encode", *words, "hydra.run.dir=e")
    assert code == 0, err
    assert "of 65535 grey levels" in out
    with Image.open("e/images/000000_original.png") as picture:
        assert (np.asarray(picture) == pixels[0, 0]).all()
    code, _, err = command(
        "sample", "task=inpaint", "task.mask=left", "task.num_fillings=1", "task.num_resamples=1", *words, "hydra.run.dir=filled"
    )
    assert code == 0, err
    with Image.open("filled/images/000000_masked.png") as picture:
        masked = np.asarray(picture)
    assert (masked[:, :4] == 128 * 257).all()
    assert (masked[:, 4:] == pixels[0, 0, :, 4:]).all()

    code, _, err = command("evaluate", "checkpoint=run", "metric=bpd", "num=4", "hydra.run.dir=bpd")
    assert (code, err.count("\n")) == (2, 1)
    assert "metric=bpd: need a model of pixels of 8 bits, got one whose codec is Pixels of 16 bits" in err


class CellsModule(LightningDataModule):
    def __init__(self, bits):
        super().__init__()
        self.bits = bits

    def train_dataloader(self):
        return DataLoader(Ramps(), batch_size=1)


def test_a_module_of_somebody_else_says_how_many_bits_its_images_have():
    assert adapted(CellsModule(16), 0).train_set.images([0]).equal(torch.from_numpy(RAMP)[None, None])
    assert adapted(CellsModule(8), 0).train_set.images([0]).dtype == torch.uint8
    with pytest.raises(UserError, match=r"^data: CellsModule\.bits is 12, need 8 or 16$"):
        adapted(CellsModule(12), 0)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("train", ["data.bits=12"], "data.bits: expected one of 8, 16, got 12"),
        (
            "train",
            ["data=folder", "data.root=.", "data.bits=16"],
            "data.bits=16: Pillow reads 16 bits of grey alone, need data.channels=1",
        ),
        ("train", ["conditioner=low_resolution", "conditioner.resolution=4"], "data.bits=16: LowResolution takes images of 8 bits"),
        ("train", ["experiment=autoencoder"], "data.bits=16: AutoencoderModule takes images of 8 bits"),
        ("prepare", ["to=there"], "data.bits=16: prepared images have 8 bits"),
    ],
)
def test_what_has_no_16_bits_says_so_in_one_line(command, name, words, message):
    write_cells(num=20)
    Image.new("L", (8, 8)).save("x.png")
    code, _, err = command(name, *(() if "data=folder" in words else ARRAYS), *words)
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err


def test_several_channels_of_16_bits_are_no_png(command, tmp_path):
    write_cells(num=20, channels=2)
    code, _, err = command("train", *runs.words(*ARRAYS, *runs.BRIEF, folder="run", tiny=TINY))
    assert code == 0, err
    words = ["checkpoint=run", "sampler.num_steps=2", "num=2", "film=0"]
    code, _, err = command("sample", *words, "hydra.run.dir=png")
    assert (code, err) == (2, "error: PNGs are written with 16 bits of grey alone, this model makes 2 channels: format=npz\n")
    assert not (tmp_path / "png").exists()
    code, _, err = command("sample", *words, "format=npz", "hydra.run.dir=npz")
    assert code == 0, err
    images = alphabar.load("run").sample(2, sampler="ddim", num_steps=2)
    assert (images.dtype, tuple(images.shape)) == (torch.uint16, (2, 2, 8, 8))
