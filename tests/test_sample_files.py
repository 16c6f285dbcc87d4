"""Images to be judged that lie in files: in which order they are looked at, how they are read, and what becomes of damaged ones."""

import os
import socket
import sys
import zipfile
import zlib

import evaluate
import numpy as np
import pytest
import torch
from PIL import Image

import runs
from alphabar.cli.command import execute
from alphabar.cli.composition.hydra_app import App
from alphabar.data import Shape
from alphabar.data.decoding.pixels import to_pixels
from alphabar.data.sources.digits import DigitsSource
from alphabar.errors import UserError
from alphabar.evaluation import files as files_module
from alphabar.evaluation.files import SampleFolder, open_samples
from alphabar.runs.processes.distributed import raise_together

FEATURES = (f"features.cache_dir={runs.CACHE}", "features.max_images=200")


def call(monkeypatch, *words):
    """The exit code of evaluate.py in this process."""
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
    return execute(evaluate.main.__wrapped__, App(runs.ROOT / "conf", "evaluate"))


def judged(monkeypatch, samples, folder, *words):
    """{figure: mean} of images in files, those that do and those that do not depend on the order."""
    statistics = ("statistics.kid=null", "statistics.prdc=null")
    arguments = (f"samples={samples}", "data=digits", f"hydra.run.dir={folder}", *statistics, *FEATURES, *words)
    assert call(monkeypatch, *arguments) == 0
    return {name.split("/")[0]: value for name, value in runs.figures(folder).items()}


def save_array(path, images, save=np.savez):
    save(path, images=images.permute(0, 2, 3, 1).numpy())
    return path


def save_folder(folder, images, names):
    for image, name in zip(images, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).save(folder / name)
    return folder


def everything(samples, num, batch_size, world_size):
    """{index: image} of all processes."""
    found = {}
    for rank in range(world_size):
        for indices, images in samples.batches(num, batch_size, rank, world_size):
            assert 1 <= len(indices) <= batch_size
            for index, image in zip(indices, images, strict=True):
                assert index not in found
                found[index] = image
    assert sorted(found) == list(range(num))
    return torch.stack([found[index] for index in range(num)])


def noise(*size, seed=0):
    return torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits():
    """(Images sorted by class, their labels, the same images shuffled)."""
    split = DigitsSource().held_out()
    images, labels = split.images(range(1000)), split.metadata(torch.arange(1000))["label"]
    order = labels.argsort(stable=True)
    shuffle = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    return images[order], labels[order].tolist(), images[shuffle]


def test_figures_do_not_depend_on_files_being_sorted_by_class(monkeypatch, shell, tmp_path, digits):
    by_class, labels, shuffled = digits
    flat = [f"{index:06d}.png" for index in range(1000)]
    found = {
        "shuffled": judged(monkeypatch, save_array(tmp_path / "shuffled.npz", shuffled), "1"),
        "sorted": judged(monkeypatch, save_array(tmp_path / "sorted.npz", by_class), "2"),
        "small": judged(monkeypatch, save_array(tmp_path / "small.npz", by_class, np.savez_compressed), "3", "batch_size=64"),
        "flat": judged(monkeypatch, save_folder(tmp_path / "flat", by_class, flat), "4"),
    }
    nested = [f"{label}/{index:06d}.png" for index, label in enumerate(labels)]
    found["nested"] = judged(monkeypatch, save_folder(tmp_path / "nested", by_class, nested), "5")
    first = found["shuffled"]
    for name, figures in found.items():
        assert figures["fid"] == pytest.approx(first["fid"], rel=1e-6), name
        assert figures["fid_infinity"] == pytest.approx(first["fid_infinity"], abs=0.3 * first["fid"]), (name, found)
        assert figures["inception_score"] == pytest.approx(first["inception_score"], rel=0.03), (name, found)
    for name in ("small", "flat"):  # as sample.py names them: the same order even
        assert found[name] == pytest.approx(found["sorted"], rel=1e-6)


def test_a_folder_is_dealt_out_by_its_names_however_it_is_listed(monkeypatch, tmp_path):
    images = noise(60, 1, 8, 8)
    names = [f"{index % 10}/é{index:03d}.png" for index in range(60)]
    folder = save_folder(tmp_path / "images", images, names)
    found = everything(open_samples(folder), 60, 7, 1)
    listed = files_module.image_files
    monkeypatch.setattr(files_module, "image_files", lambda root: reversed(list(listed(root))))
    assert everything(open_samples(folder), 60, 7, 1).equal(found)


@pytest.mark.parametrize("num", [50, 23, 1])
@pytest.mark.parametrize("kind", ["folder", "array", "compressed"])
def test_every_image_is_dealt_out_once_whoever_reads_it(tmp_path, kind, num):
    images = noise(50, 3, 8, 8)
    if kind == "folder":
        path = save_folder(tmp_path / "images", images, [f"{index:06d}.png" for index in range(50)])
    else:
        path = save_array(tmp_path / "images.npz", images, np.savez if kind == "array" else np.savez_compressed)
    samples = open_samples(path)
    found = everything(samples, num, 50, 1)
    whole = everything(samples, 50, 50, 1)
    assert found.equal(whole[:num])
    for batch_size, world_size in ((1, 1), (7, 1), (7, 3), (30, 2), (64, 4)):
        assert everything(samples, num, batch_size, world_size).equal(found)
    places = [next(at for at, image in enumerate(images) if image.equal(one)) for one in whole]
    assert sorted(places) == list(range(50))
    for part in range(5):  # each fifth of the set comes from all over the files
        assert max(places[10 * part : 10 * part + 10]) - min(places[10 * part : 10 * part + 10]) > 25


def odd_images():
    """Images of 8 x 8 pixels in all the ways in which files hold them, by the number of channels as which data has them."""
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8)
    colours = noise(8, 8, 4, seed=1).numpy()
    palette = Image.fromarray(colours[..., :3]).quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "rgba.png": (3, Image.fromarray(colours), {}),
        "rgba.webp": (3, Image.fromarray(colours), {"lossless": True}),
        "palette.png": (3, palette, {"transparency": 3}),
        "turned.png": (3, Image.fromarray(colours[..., :3]), {"exif": exif}),
        "cmyk.jpg": (3, Image.fromarray(colours, "CMYK"), {}),
        "sixteen.png": (1, Image.fromarray(ramp.astype(np.uint16) * 1024), {}),
        "sixteen.tif": (1, Image.fromarray(ramp.astype(np.uint16) * 1024), {}),
        "la.png": (1, Image.fromarray(np.stack([ramp * 4, 255 - ramp * 3], -1), "LA"), {}),
        "bits.png": (1, Image.fromarray(ramp % 3 == 0), {}),
    }


@pytest.mark.filterwarnings("ignore:.*mode.*:DeprecationWarning")
@pytest.mark.parametrize("name", odd_images())
def test_files_are_decoded_as_those_of_real_data(tmp_path, name):
    channels, image, options = odd_images()[name]
    (tmp_path / "images").mkdir()
    image.save(tmp_path / "images" / name, **options)
    samples = open_samples(tmp_path / "images")
    assert samples.size == (channels, 8, 8)
    with Image.open(tmp_path / "images" / name) as again:
        real = to_pixels(again, Shape(channels, 8, 8))
    assert everything(samples, 1, 1, 1)[0].equal(real)


def test_what_is_transparent_is_white_and_sixteen_bits_are_scaled(tmp_path):
    for name, pixels in (
        ("clear/a.png", np.zeros((8, 8, 4), dtype=np.uint8)),
        ("deep/a.png", np.full((8, 8), 128 * 257, dtype=np.uint16)),
    ):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(pixels).save(tmp_path / name)
    assert everything(open_samples(tmp_path / "clear"), 1, 1, 1).eq(255).all()
    assert everything(open_samples(tmp_path / "deep"), 1, 1, 1).eq(128).all()


def test_pixels_without_a_range_are_refused(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((8, 8), 2, dtype=np.float32)).save(tmp_path / "images" / "a.tif")
    with pytest.raises(UserError, match=r"cannot read a.tif: ValueError: floating-point pixels from 2 to 2: need 0 to 1"):
        everything(open_samples(tmp_path / "images"), 1, 1, 1)


def damage(path, kind):
    """Changes what an .npz holds, and leaves its directory as it is."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("images.npy")
    content = bytearray(path.read_bytes())
    begin = info.header_offset + 30 + int.from_bytes(content[info.header_offset + 28 : info.header_offset + 30], "little")
    begin += len(info.filename)
    if kind == "crc":
        content[begin + info.compress_size - 5] ^= 255
    elif kind == "deflate":
        content[begin + 9_000 : begin + 9_300] = b"\xff" * 300
    else:  # a stream that ends too early, in an archive that says it is whole
        packer = zlib.compressobj(wbits=-15)
        with zipfile.ZipFile(path) as archive:
            short = packer.compress(archive.read("images.npy")[:40_000]) + packer.flush()
        content[begin : begin + info.compress_size] = short.ljust(info.compress_size, b"\0")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "save"),
    [("crc", np.savez), ("deflate", np.savez_compressed), ("short", np.savez_compressed)],
)
def test_a_damaged_array_is_one_line(monkeypatch, shell, tmp_path, capsys, kind, save):
    path = save_array(tmp_path / "images.npz", noise(1000, 1, 8, 8) // 64, save)
    damage(path, kind)
    samples = open_samples(path)
    for rank in range(3):  # whoever reads, and whatever they need of it
        with pytest.raises(UserError, match=r"images.npz: "):
            list(samples.batches(10, 8, rank, 3))
    assert call(monkeypatch, "samples=images.npz", "data=digits", "metric=fid", *FEATURES, "hydra.run.dir=out") == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: samples=images.npz: cannot read images.npy: ")  # zlib or the archive is first to notice
    assert not (tmp_path / "out").exists()


def test_an_array_that_is_cut_off_or_holds_less_than_it_says(tmp_path):
    path = save_array(tmp_path / "images.npz", noise(100, 1, 8, 8))
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"cut.npz: File is not a zip file"):
        open_samples(tmp_path / "cut.npz")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "less.npz", "w") as other:
        other.writestr("images.npy", archive.read("images.npy")[:-1])
    with pytest.raises(UserError, match=r"less.npz: the file ends before its 100 images do"):
        everything(open_samples(tmp_path / "less.npz"), 5, 5, 1)


def test_one_process_raises_its_own_error():
    raise_together(None)
    with pytest.raises(UserError, match="mine"):
        raise_together(UserError("mine"))


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_end_together_where_one_of_them_cannot_read(tmp_path, rank):
    """Started from outside, so that both exit codes are seen: nobody waits, and there is no traceback."""
    folder = save_folder(tmp_path / "images", noise(80, 1, 8, 8), [f"{index:03d}.png" for index in range(80)])
    name = SampleFolder(folder).names[16 * rank]  # in a batch of this process
    (folder / name).write_bytes((folder / name).read_bytes()[:60])
    words = ("samples=images", "data=digits", "metric=fid", "batch_size=16", "accelerator=cpu", "devices=2", "hydra.run.dir=out")
    outer = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    both = []
    for each in range(2):
        env = {**outer, "LOCAL_RANK": str(each), "ALPHABAR_ERRORS": str(tmp_path / f"errors{each}")}
        both.append(runs.start("evaluate.py", *words, *FEATURES, cwd=tmp_path, env=env))
    for code, _, err in [runs.finish(process) for process in both]:
        assert code == 2, err
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert line.startswith(f"error: samples=images: cannot read {name}: OSError: ")
        assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_two_processes_find_what_one_does(monkeypatch, shell, tmp_path, digits):
    """And started by ourselves, as users do."""
    folder = save_folder(tmp_path / "images", digits[0][::4], [f"{index:03d}.png" for index in range(250)])
    one = judged(monkeypatch, "images", "one", "batch_size=250")
    words = ("samples=images", "data=digits", "accelerator=cpu", "devices=2", "batch_size=16", *FEATURES)
    code, _, err = runs.run("evaluate.py", *words, "hydra.run.dir=two", cwd=tmp_path)
    assert code == 0, err
    two = {name.split("/")[0]: value for name, value in runs.figures("two").items()}
    assert {name: two[name] for name in one} == {name: pytest.approx(value, rel=1e-6) for name, value in one.items()}
    os.truncate(folder / "007.png", 60)
    code, _, err = runs.run("evaluate.py", *words, "hydra.run.dir=bad", cwd=tmp_path)
    assert code == 2, err
    assert err.count("error: samples=images: cannot read 007.png: OSError: ") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "bad").exists()
