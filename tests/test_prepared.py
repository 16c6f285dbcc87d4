"""Images that are decoded once, by prepare.py, and mapped into memory: the same batches as the data that they were made of."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar.data import preparation
from alphabar.data.sources.folder import Folder
from alphabar.data.sources.prepared import HEAD, HEADER, Prepared
from alphabar.errors import UserError
from streamed import assert_equal_data

NUM = 60
PIXELS = np.random.RandomState(0).randint(0, 256, (NUM, 10, 9, 3)).astype(np.uint8)
BROKEN = "cat/000007.png"
SOURCE = ("data=folder", "data.root=photos", "data.resolution=8", "data.held_out=0.2")


@pytest.fixture
def photos(tmp_path):
    """A folder `photos` of two classes with captions, in which one image cannot be read."""
    lines = []
    for number, pixels in enumerate(PIXELS):
        name = f"{('cat', 'dog')[number % 2]}/{number:06d}.png"
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
        lines.append(json.dumps({"file_name": name, "text": f"the number {number % 5}"}))
    (tmp_path / "photos/cat/000007.png").write_bytes(b"no image")
    (tmp_path / "photos/dog/000007.png").unlink()
    lines[7] = json.dumps({"file_name": BROKEN, "text": "none"})
    (tmp_path / "photos/metadata.jsonl").write_text("\n".join(lines))
    return tmp_path / "photos"


def prepared(command, *words, to="ready"):
    code, out, err = command("prepare", *SOURCE, f"to={to}", *words)
    assert code == 0, err
    return out


def folder(photos, **settings):
    return Folder(str(photos), 8, held_out=0.2, resident=True, **settings)


@pytest.mark.parametrize("resident", [True, False])
def test_prepared_images_are_those_of_the_folder_in_the_same_places(command, photos, resident):
    out = prepared(command)
    assert f"cannot read {photos / BROKEN}: UnidentifiedImageError" in out
    data = Prepared("ready", resident=resident)
    assert_equal_data(data, folder(photos), "flip")
    assert {"label", "caption", "image"} == set(data.train_set.batch(torch.arange(2)))
    assert len((photos.parent / "ready/names.txt").read_text().splitlines()) == NUM - 1
    array = np.load("ready/images.npy", mmap_mode="r")
    assert array.shape == (NUM - 1, 3, 8, 8)
    assert torch.from_numpy(np.array(array[: len(data.train_set)])).equal(folder(photos).train_set.load().pixels)


def test_images_of_a_batch_alone_are_read_and_a_worker_opens_the_file_itself(command, photos):
    prepared(command)
    images = Prepared("ready", resident=False).train_set
    batch = images.batch(torch.tensor([3, 1]))["image"]
    copy = pickle.loads(pickle.dumps(images))
    assert copy.batch(torch.tensor([3, 1]))["image"].equal(batch)
    assert len(pickle.dumps(images.mapped)) < 1000


class Killed(BaseException):
    pass


@pytest.mark.parametrize("num_pieces", [0, 1, 3])
def test_a_preparation_that_was_killed_goes_on_to_the_same_files(command, photos, monkeypatch, num_pieces):
    """What was written after the last note is cut off: here the command dies after a piece that it has not noted."""
    monkeypatch.setattr(preparation, "CHUNK", 8)
    prepared(command, to="whole")
    original, note, pieces = preparation._pieces, preparation._flush, []

    def interrupted(splits, start):
        for number, piece in enumerate(original(splits, start)):
            if number > num_pieces:
                raise Killed
            yield piece
            pieces.append(piece)

    def noted(journal, files, folder):
        if len(pieces) != num_pieces:
            note(journal, files, folder)

    monkeypatch.setattr(preparation, "SECONDS", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_pieces", interrupted)
        patch.setattr(preparation, "_flush", noted)
        with pytest.raises(Killed):
            command("prepare", *SOURCE, "to=ready")
    with pytest.raises(UserError, match="ready is not finished: repeat the command"):
        Prepared("ready")
    with open("ready/images.npy", "ab") as file:
        file.write(b"half an image")
    prepared(command)
    for name in sorted(os.listdir("whole")):
        assert (photos.parent / "ready" / name).read_bytes() == (photos.parent / "whole" / name).read_bytes(), name
    assert "before" in prepared(command)


def test_a_folder_of_other_images_is_not_touched(command, photos):
    prepared(command)
    before = sorted((path.name, path.read_bytes()) for path in (photos.parent / "ready").iterdir())
    for words in (("data.resolution=4",), ("data.held_out=0.5",)):
        code, _, err = command("prepare", *SOURCE, *words, "to=ready")
        assert (code, err) == (2, "error: to=ready: is prepared from other images or with other settings; name another folder\n")
    assert sorted((path.name, path.read_bytes()) for path in (photos.parent / "ready").iterdir()) == before
    code, _, err = command("prepare", *SOURCE, "to=photos")
    assert (code, err) == (2, "error: to=photos: is not empty; name a folder that does not exist yet\n")


def test_a_full_disk_is_named_before_anything_is_written(command, photos, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 5_000))
    code, _, err = command("prepare", *SOURCE, "to=new/ready")
    assert code == 2
    assert err.startswith("error: to=new/ready: need 1.15e-05 GB for 60 images of 192 bytes, ")
    assert err.count("\n") == 1
    assert not (photos.parent / "new").exists()


def write(path, place, content):
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(content)


DAMAGE = {
    "moved": (lambda: os.rename("ready", "elsewhere"), "there is no folder .*ready: data.root names"),
    "another folder": (
        lambda: os.unlink("ready/manifest.json") or os.unlink("ready/images.npy"),
        "has no manifest.json: data.root",
    ),
    "cut": (lambda: os.truncate("ready/images.npy", 1000), "images.npy is damaged: 1,000 bytes, need 11,456 for 59 images"),
    "changed": (lambda: write("ready/images.npy", HEADER + 5, b"12"), "images.npy is damaged: it begins with other images"),
    "gone": (lambda: os.unlink("ready/images.npy"), "cannot read .*images.npy"),
    "no json": (lambda: write("ready/manifest.json", 0, b"x"), "manifest.json is damaged"),
    "labels": (lambda: np.savez("ready/metadata.npz", labels=np.arange(59)), "labels int64 .* does not fit"),
    "few labels": (lambda: np.savez("ready/metadata.npz", labels=np.zeros(5, np.int64)), "labels int64 .* does not fit"),
    "pickles": (lambda: np.savez("ready/metadata.npz", labels=np.array([{}] * 59, object)), "labels.npy is pickled"),
    "texts": (lambda: write("ready/texts.json", 0, b"[1,2]#"), "cannot read .*texts.json"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folders_end_in_one_line(command, photos, case):
    prepared(command)
    damage, message = DAMAGE[case]
    damage()
    with pytest.raises(UserError, match=message) as caught:
        Prepared("ready").train_set.batch(torch.arange(4))
    assert "\n" not in str(caught.value)


def test_a_manifest_that_promises_more_than_the_file_holds_takes_no_memory(command, photos):
    prepared(command)
    content = json.loads((photos.parent / "ready/manifest.json").read_text())
    (photos.parent / "ready/manifest.json").write_text(json.dumps(content | {"num_train": 10**12}))
    with pytest.raises(UserError, match="need 192,000,000"):
        Prepared("ready")
    assert HEAD == 2**20


def test_data_of_any_kind_are_prepared(command, tmp_path):
    vectors = np.random.RandomState(1).rand(NUM, 2).astype(np.float32)
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=np.arange(NUM) % 3, vectors=vectors)
    for name, words in {"digits": ("data=digits",), "arrays": ("data=arrays", "data.path=x.npz")}.items():
        code, _, err = command("prepare", *words, f"to={name}")
        assert code == 0, err
    assert len(Prepared("digits").train_set) == 797
    from alphabar.data.sources.arrays import Arrays

    assert_equal_data(Prepared("arrays", resident=False), Arrays(str(tmp_path / "x.npz"), resident=True))
    assert Prepared("arrays").source.vector_length == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "error: to: missing, give to=..."),
        (("to=x", "data.root=none"), "error: data: there is no folder"),
        (("to=x", "data.crop=random"), "error: task: data.crop=random: images are cropped once here"),
    ],
)
def test_bad_input_of_the_command_is_one_line(command, photos, words, line):
    code, _, err = command("prepare", *SOURCE, *words)
    assert code == 2
    assert err.startswith(line)
    assert not (photos.parent / "x").exists()
    assert not (photos.parent / "outputs").exists()
