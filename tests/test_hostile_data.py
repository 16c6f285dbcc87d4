"""Data of strangers: nothing in them starts a program, opens a connection, waits for ever or takes more memory than files warrant."""

import io
import json
import os
import socket
import struct
import subprocess
import zipfile
import zlib

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from PIL import EpsImagePlugin, Image

from alphabar.data.sources.folder import FolderSource
from alphabar.data.sources.huggingface import HuggingFaceSource
from alphabar.data.sources.torchvision_catalogue import CATALOGUE
from alphabar.data.user_images import read_user_images
from alphabar.errors import UserError
from alphabar.evaluation.files import open_samples
from alphabar.evaluation.receipt import read_receipt
from alphabar.files.reading import FORMATS, open_image
from alphabar.reports.images import embed_image
from alphabar.runs.metrics_csv import read_metrics
from alphabar.runs.provenance.receipt import FILE_NAME, FORMAT, json_sha256
from alphabar.sampling.tasks.mask import known_pixels

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
WMF = struct.pack("<LHhhhhHLHH", 0x9AC6CDD7, 0, 0, 0, 8, 8, 96, 0, 0, 9) + b"\x01\x00\x09\x00" + bytes(40)


@pytest.fixture(autouse=True)
def forbidden(monkeypatch):
    """Programs that were started and connections that were opened, of which there must be none."""
    acts = []

    def forbid(name):
        def act(*args, **kwargs):
            acts.append((name, args))
            raise AssertionError(f"{name} {args}")

        return act

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")  # as if Ghostscript were installed
    monkeypatch.setattr(subprocess, "Popen", forbid("Popen"))
    monkeypatch.setattr(os, "system", forbid("system"))
    monkeypatch.setattr(socket.socket, "connect", forbid("connect"))
    yield acts
    assert acts == []


def png_of(width, height):
    """A PNG file that promises so many pixels and has none."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


HOSTILE = {
    "postscript.png": (POSTSCRIPT, "UnidentifiedImageError"),
    "postscript.jpg": (POSTSCRIPT, "UnidentifiedImageError"),
    "metafile.png": (WMF, "UnidentifiedImageError"),
    "bomb.png": (png_of(60_000, 60_000), "DecompressionBombError"),
}


def make_hostile(folder):
    """Fills a folder with images and with what is none; returns what the log says of each of the latter."""
    folder.mkdir(exist_ok=True)
    for index in range(4):
        Image.new("RGB", (8, 8), (50 * index, 0, 0)).save(folder / f"{index}.png")
    for name, (content, _) in HOSTILE.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "itself").symlink_to("itself")
    (folder / "up").symlink_to("..")
    special = {
        "pipe.png": "it is a named pipe, not a file",
        "device.png": "it is a device, not a file",
        "itself.png": "symbolic links",
    }
    return {name: kind for name, (_, kind) in HOSTILE.items()} | special


def test_a_folder_is_read_and_what_is_no_image_is_named_and_left_out(tmp_path, caplog):
    reasons = make_hostile(tmp_path / "data")
    images = FolderSource(str(tmp_path / "data"), 8, held_out=0).train()
    assert len(images) == 4 + len(reasons)
    assert sorted(images.load().pixels[:, 0, 0, 0].tolist()) == [0, 50, 100, 150]
    for name, reason in reasons.items():
        (line,) = [message for message in caplog.messages if f"/{name}: " in message]
        assert reason in line
    assert set(images.batch(torch.arange(len(images)))["image"][:, 0, 0, 0].tolist()) == {0, 50, 100, 150}
    FolderSource(str(tmp_path / "data"), 8).fingerprint()


@pytest.mark.parametrize("name", ["postscript.png", "bomb.png", "pipe.png", "device.png", "itself.png"])
def test_every_reader_of_images_refuses_it_in_one_line(tmp_path, name):
    folder = tmp_path / "data"
    make_hostile(folder)
    for read in (
        lambda: read_user_images(str(folder / name), FolderSource(str(folder), 8).shape, 1, bits=8),
        lambda: known_pixels(str(folder / name), 8, 8),
        lambda: open_samples(folder),
    ):
        with pytest.raises(UserError) as caught:
            read()
        assert "\n" not in str(caught.value)
    shown = embed_image(folder / name)
    assert shown is None or "cannot be shown" in shown.problem


def test_images_are_known_by_their_content(tmp_path):
    for number, kind in enumerate(sorted(set(FORMATS) & set(Image.SAVE))):
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (200, 0, 0)).save(buffer, kind)
        path = tmp_path / f"{number}.png"
        path.write_bytes(buffer.getvalue())
        with open_image(path) as image:
            assert image.convert("RGB").getpixel((8, 8))[0] > 150, kind
    assert number >= 10
    assert not set(FORMATS) & {"EPS", "WMF", "IPTC", "HDF5", "BUFR", "GRIB", "FITS", "MPEG"}


@pytest.mark.parametrize("name", ["CelebA", "Flowers102", "Food101", "OxfordIIITPet"])
def test_files_of_torchvision_are_opened_by_us(tmp_path, name):
    path = tmp_path / "img_align_celeba" / "x.jpg"
    path.parent.mkdir()

    class Dataset:
        root, base_folder, filename = str(tmp_path), "", ["x.jpg"]
        _image_files = _images = [path]

    Image.new("RGB", (8, 8), (200, 0, 0)).save(path)
    with CATALOGUE[name].read(Dataset(), 0) as image:
        assert image.convert("RGB").getpixel((4, 4))[0] > 190
    path.write_bytes(POSTSCRIPT)
    with pytest.raises(OSError, match="cannot identify"):
        CATALOGUE[name].read(Dataset(), 0)


def array_file(path, shape, content=b"", method=zipfile.ZIP_STORED, header_length=None):
    """An .npz file with an array of uint8 whose header says anything."""
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    start = header.getvalue()
    if header_length is not None:
        start = b"\x93NUMPY\x02\x00" + struct.pack("<I", header_length)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("images.npy", start + content)
    return path


def with_size(path, size):
    """Changes the unpacked size that the directory of an archive states."""
    with zipfile.ZipFile(path) as archive:
        true = archive.infolist()[0].file_size
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", true), struct.pack("<I", size)))
    return path


ARRAYS = {
    "nothing": (lambda p: array_file(p, (10**9, 8, 8, 1)), "the file ends before its 1000000000 images do"),
    "lie": (
        lambda p: with_size(array_file(p, (10**7, 8, 8, 1)), 10**9),
        "promises 1,000,000,000 bytes, which cannot be in a file of",
    ),
    "packed": (
        lambda p: with_size(array_file(p, (10**7, 8, 8, 1), b"0" * 99, zipfile.ZIP_DEFLATED), 10**9),
        "images.npy promises 1,000,000,000 bytes, which cannot be",
    ),
    "flat": (lambda p: array_file(p, (10**9, 0, 8, 1)), "need an array uint8 [N, H, W, C] with N >= 1"),
    "negative": (lambda p: array_file(p, (-1, 8, 8, 1)), "need an array uint8 [N, H, W, C] with N >= 1"),
    "header": (
        lambda p: array_file(p, (1,), bytes(2**22), zipfile.ZIP_DEFLATED, header_length=2**32 - 1),
        "EOF: reading array header, expected 4294967295 bytes got",
    ),
    "method": (lambda p: array_file(p, (1, 8, 8, 1), bytes(64), zipfile.ZIP_BZIP2), "promises 192 bytes, which cannot be"),
    "wide": (
        lambda p: with_size(array_file(p, (1, 20_000, 20_000, 1), os.urandom(400_000), zipfile.ZIP_DEFLATED), 400_001_000),
        "need at most 33,554,432 images, of at most 268,435,456 numbers each",
    ),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_that_promises_more_than_its_file_is_refused_unread(tmp_path, kind):
    make, message = ARRAYS[kind]
    with pytest.raises(UserError) as caught:
        open_samples(make(tmp_path / "images.npz"))
    assert str(caught.value).startswith(f"samples={tmp_path}/images.npz: ")
    assert message in str(caught.value)


def test_objects_in_an_array_are_not_loaded(tmp_path):
    np.savez(tmp_path / "images.npz", images=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"need an array uint8 .* got images object \[1\]"):
        open_samples(tmp_path / "images.npz")


def test_pipes_in_place_of_files_are_not_waited_for(tmp_path):
    for name in ("images.npz", "metadata.jsonl", "metrics.csv", FILE_NAME):
        os.mkfifo(tmp_path / name)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"images.npz: it is a named pipe, not a file"):
        open_samples(tmp_path / "images.npz")
    with pytest.raises(UserError, match=r"metadata.jsonl: it is a named pipe, not a file"):
        FolderSource(str(tmp_path), 8).train()
    assert read_metrics(tmp_path / "metrics.csv").problem == "metrics.csv cannot be read: OSError"
    with pytest.raises(UserError, match="there is no receipt"):
        read_receipt(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"format": 1' + "0" * 5000 + "}",
        "{}",
        None,
        {"protocol": []},
        {"protocol": {}, "figures": [{"values": "x"}]},
    ],
    ids=range(6),
)
def test_a_receipt_of_anything_is_one_line(tmp_path, content):
    if not isinstance(content, str):
        record = {"format": FORMAT, **(content or {})}
        content = json.dumps({**record, "sha256": json_sha256(record)})
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(UserError, match=r"receipt.json: not a (whole )?receipt") as caught:
        read_receipt(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture
def quiet_datasets(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield datasets
    datasets.enable_progress_bars()


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_dataset_gives_the_bytes_of_its_images_and_opens_no_path(tmp_path, caplog, quiet_datasets, kind):
    import pyarrow.ipc
    import pyarrow.parquet

    datasets = quiet_datasets
    Image.new("L", (8, 8), 100).save(tmp_path / "secret.png")
    own = io.BytesIO()
    Image.new("L", (8, 8), 7).save(own, "PNG")
    foreign = [str(tmp_path / "secret.png"), "https://localhost:9/x.png", "hf://datasets/a/b/x.png", "secret.png", "/dev/zero"]
    cells = [{"bytes": own.getvalue(), "path": foreign[0]}, {"bytes": POSTSCRIPT, "path": None}]
    cells += [{"bytes": None, "path": path} for path in foreign]
    rows = datasets.Dataset.from_dict({"image": cells, "text": ["a"] * len(cells)})
    rows = rows.cast_column("image", datasets.Image(decode=False)).cast_column("image", datasets.Image())
    if kind == "parquet":
        (tmp_path / "data").mkdir()
        pyarrow.parquet.write_table(rows.data.table, tmp_path / "data" / "train.parquet")
    else:
        rows.select([0]).save_to_disk(tmp_path / "data")
        (file,) = (tmp_path / "data").glob("*.arrow")
        with pyarrow.ipc.new_stream(file, rows.data.schema) as stream:
            stream.write_table(rows.data.table)
    images = HuggingFaceSource(str(tmp_path / "data"), 8, channels=1, held_out=0).train()
    assert len(images) == len(cells)
    assert images.load().pixels[:, 0, 0, 0].tolist() == [7]
    for path in foreign:
        assert any(f"need the bytes of the image in the dataset, got only the path {path!r}" in line for line in caplog.messages)


@pytest.mark.parametrize("place", ["https://localhost:9/x.parquet", "/etc/*", "../*.png", "zip://x::https://localhost:9/y", "~/x"])
@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
def test_the_card_of_a_dataset_names_no_files_of_others(tmp_path, quiet_datasets, card, place):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    content = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: ['a.png', '{place}']\n"
    (tmp_path / card).write_text(f"---\n{content}---\n" if card == "README.md" else content)
    with pytest.raises(UserError, match=rf"^data.name=.*: {card} names data outside this folder, "):
        HuggingFaceSource(str(tmp_path), 8, caption_key=None).train()


# (the file of a dataset that save_to_disk wrote, what it says)
ELSEWHERE = {
    "upwards": (
        "state.json",
        {"_data_files": [{"filename": "../other.arrow"}]},
        "names data outside this folder, '../other.arrow'",
    ),
    "absolute": ("state.json", {"_data_files": [{"filename": "/etc/passwd"}]}, "names data outside this folder, "),
    "a link": ("state.json", {"_data_files": [{"filename": "link.arrow"}]}, "names data outside this folder, 'link.arrow'"),
    "a split": ("dataset_dict.json", {"splits": ["train", "../other"]}, "names data outside this folder, '../other/state.json'"),
    "a split at the root": ("dataset_dict.json", {"splits": ["/etc"]}, "names data outside this folder, "),
    "no list": ("state.json", {"_data_files": 3}, "state.json does not list names of files"),
    "no texts": ("dataset_dict.json", {"splits": [["x"]]}, "dataset_dict.json does not list names of files"),
    "no mapping": ("state.json", [], "state.json is damaged"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_saved_dataset_names_no_files_of_others(tmp_path, quiet_datasets, monkeypatch, name):
    file, content, message = ELSEWHERE[name]
    folder = tmp_path / "data"
    for part in (folder, folder / "train"):
        part.mkdir()
        (part / "state.json").write_text('{"_data_files": []}')
    (folder / "link.arrow").symlink_to(tmp_path / "other.arrow")
    (folder / file).write_text(json.dumps(content))
    monkeypatch.setattr(quiet_datasets, "load_from_disk", None)  # nothing is read
    with pytest.raises(UserError) as caught:
        HuggingFaceSource(str(folder), 8).train()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_captions_in_a_column_of_files_are_refused(tmp_path, quiet_datasets):
    datasets = quiet_datasets
    rows = datasets.Dataset.from_dict({"image": [Image.new("L", (8, 8))], "text": [Image.new("L", (8, 8))]})
    rows.save_to_disk(tmp_path / "data")
    with pytest.raises(UserError, match=r"data.caption_key=text: need a column of texts, got Image"):
        HuggingFaceSource(str(tmp_path / "data"), 8).train()
