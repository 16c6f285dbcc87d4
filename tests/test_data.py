"""Sources of images: what is read, how it is cropped and scaled, what is held out, and messages about bad input."""

import inspect
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from alphabar.data import Shape
from alphabar.data.decoding.pixels import to_pixels
from alphabar.data.folders.files import folder_entries
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.sources.digits import Digits, DigitsSource
from alphabar.data.sources.folder import Folder, FolderSource
from alphabar.data.sources.torchvision import Torchvision, TorchvisionSource
from alphabar.errors import UserError

GREY = Image.new("L", (9, 7), 100)


def save(path: Path, value: int = 100, size: tuple[int, int] = (9, 7)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def values(images: torch.Tensor) -> list[int]:
    """The grey level of each image, all of which are flat."""
    return images.flatten(1).double().mean(1).round().int().tolist()


def test_digits_are_scaled_and_split_without_loss_or_overlap():
    source = DigitsSource()
    train, held_out = source.train(), source.held_out()
    assert (len(train), len(held_out), source.shape) == (797, 1000, Shape(1, 8, 8))
    ours = torch.cat([train.images(range(797)), held_out.images(range(1000))]).flatten(1)
    theirs = torch.from_numpy(np.rint(load_digits().data * 255 / 16)).to(torch.uint8)
    assert sorted(ours.tolist()) == sorted(theirs.tolist())
    batch = train.batch(torch.tensor([3, 1]))
    assert batch["image"].dtype == torch.uint8
    assert batch["label"].tolist() == train.labels[[3, 1]].tolist()
    assert set(train.labels[:100].tolist()) == set(range(10))
    assert DigitsSource().fingerprint() == source.fingerprint() != DigitsSource(900).fingerprint()


def transparent_palette() -> Image.Image:
    image = Image.new("P", (9, 7), 1)
    image.putpalette([0, 0, 0, 100, 100, 100])
    image.info["transparency"] = bytes([255, 128])
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(GREY, 100, id="grey"),
        pytest.param(GREY.convert("RGB"), 100, id="rgb"),
        pytest.param(GREY.convert("P"), 100, id="palette"),
        pytest.param(GREY.convert("CMYK"), 100, id="cmyk"),
        pytest.param(Image.new("1", (9, 7), 1), 255, id="bilevel"),
        pytest.param(Image.new("LA", (9, 7), (100, 0)), 255, id="grey-transparent"),
        pytest.param(Image.new("RGBA", (9, 7), (100, 100, 100, 128)), 177, id="rgba-half"),
        pytest.param(transparent_palette(), 177, id="palette-half"),
        pytest.param(Image.fromarray(np.full((7, 9), 100 * 257, np.uint16)), 100, id="16-bit"),
        pytest.param(Image.fromarray(np.full((7, 9), 100 * 257, np.int32)), 100, id="32-bit-holding-16"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_8_bits_on_white(image, expected, channels):
    pixels = to_pixels(image, Shape(channels, 4, 4))
    assert pixels.shape == (channels, 4, 4)
    assert pixels.dtype == torch.uint8
    assert (pixels.int() - expected).abs().max() <= 1


def test_the_centred_square_is_kept_upright_and_scaled_without_aliasing(tmp_path):
    columns = np.repeat(np.array([0, 200, 0], np.uint8), [8, 16, 8])
    wide = Image.fromarray(np.tile(columns, (16, 1)))
    assert to_pixels(wide, Shape(1, 16, 16)).unique().tolist() == [200]
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    assert (to_pixels(Image.fromarray(checks.astype(np.uint8)), Shape(1, 8, 8)).double() - 127.5).abs().max() < 3
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees clockwise: what is on the left comes to the top
    Image.fromarray(np.repeat([[255, 0]], 8, 0).repeat(4, 1).astype(np.uint8)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as turned:
        assert (to_pixels(turned, Shape(1, 2, 2)) > 127).tolist() == [[[True, True], [False, False]]]


def test_a_folder_is_read_whatever_is_in_it(tmp_path):
    names = ["a b.png", "é/ü.PNG", "deep/er/c.jpeg", "d.jpg", "e.webp", "f.bmp", "g.gif"]
    for name in names:
        save(tmp_path / name, 100)
    for ignored in ["__MACOSX/a.png", ".hidden/a.png", "._a.png"]:
        save(tmp_path / ignored, 0)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "linked").symlink_to(tmp_path / "deep")
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    source = FolderSource(str(tmp_path), resolution=4, held_out=0)
    images = source.train()
    assert sorted(Path(images.reader.name(index)).relative_to(tmp_path).as_posix() for index in range(len(images))) == sorted(
        [*names, "linked/er/c.jpeg"]
    )
    assert values(images.images(range(8))) == [100] * 8
    assert source.classes is None
    assert len(source.held_out()) == 0


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        pytest.param(["cat/1.png", "dog/x/1.png"], ("cat", "dog"), id="two-folders"),
        pytest.param(["all/1.png", "all/x/1.png"], None, id="one-folder"),
        pytest.param(["cat/1.png", "dog/1.png", "1.png"], None, id="mixed"),
    ],
)
def test_classes_are_the_first_level_folders(tmp_path, names, classes):
    for name in names:
        save(tmp_path / name, 100 if name.startswith("dog") else 0)
    source = FolderSource(str(tmp_path), 4, channels=1, held_out=0)
    assert source.classes == classes
    if classes:
        batch = source.train().batch(torch.arange(2))
        assert [classes[label] for label in batch["label"]] == ["dog" if value else "cat" for value in values(batch["image"])]


def test_files_that_come_later_move_no_other_between_the_splits(tmp_path):
    def splits() -> tuple[set[str], set[str]]:
        source = FolderSource(str(tmp_path), 4, held_out=0.3)
        return tuple({split.reader.name(index) for index in range(len(split))} for split in (source.train(), source.held_out()))

    for index in range(100):
        save(tmp_path / "ab"[index % 2] / f"{index}.png")
    train, held_out = splits()
    assert 15 <= len(held_out) <= 45
    assert not train & held_out
    before = FolderSource(str(tmp_path), 4).fingerprint()
    assert 3 < FolderSource(str(tmp_path), 4, held_out=0).train().labels[:20].sum() < 17  # the classes are mixed
    for index in range(100, 150):
        save(tmp_path / f"new/{index}.png")
    more_train, more_held_out = splits()
    assert train < more_train
    assert held_out < more_held_out
    assert before != FolderSource(str(tmp_path), 4).fingerprint() != FolderSource(str(tmp_path), 8).fingerprint()


LAYOUTS = {
    "splits": (
        ["train/b/1.png", "Test/a/2.png", "train/a/3.png", "val/b/4.png"],
        (["train/a/3.png", "train/b/1.png"], ["Test/a/2.png", "val/b/4.png"], ("a", "b")),
        {"splits": "trained on train (2), held out Test (1), val (1), as the folders are called"},
    ),
    "flat-splits": (
        ["training/1.png", "dev/2.png", "more/3.png", "4.png"],
        (["training/1.png"], ["dev/2.png"], None),
        {
            "splits": "trained on training (1), held out dev (1), as the folders are called",
            "not used": "2 images outside the splits",
        },
    ),
    "one-split-without-classes": (
        ["train/a/1.png", "train/b/2.png", "test/3.png"],
        (["train/a/1.png", "train/b/2.png"], ["test/3.png"], None),
        {
            "splits": "trained on train (2), held out test (1), as the folders are called",
            "classes": "none, since 1 image lies beside the folders a, b: test/3.png",
        },
    ),
    "train-alone": (["train/a/1.png", "train/b/2.png"], (["train/a/1.png", "train/b/2.png"], [], ("a", "b")), {}),
    "a-class-called-train": (["train/1.png", "bus/2.png"], (["bus/2.png", "train/1.png"], [], ("bus", "train")), {}),
    "test-alone": (["test/1.png"], (["test/1.png"], [], None), {}),
    "no-train": (
        ["test/1.png", "val/2.png"],
        (["test/1.png", "val/2.png"], [], ("test", "val")),
        {"splits": "none, as no folder is called train: test, val are classes"},
    ),
    "stray": (
        ["a/1.png", "b/2.png", "stray.png"],
        (["a/1.png", "b/2.png", "stray.png"], [], None),
        {"classes": "none, since 1 image lies beside the folders a, b: stray.png"},
    ),
    "empty-class": (["a/1.png", "b/2.png", "c/"], (["a/1.png", "b/2.png"], [], ("a", "b")), {"classes": "no images in c"}),
    "one-full-class": (["a/1.png", "b/x.heic"], (["a/1.png"], [], None), {"classes": "no images in b", "not used": "1 .heic"}),
    "case": (["a/1.png", "A/2.png"], (["A/2.png", "a/1.png"], [], ("A", "a")), {"classes": "A and a differ in case only"}),
    "only-held-out": (
        ["train/a/1.png", "train/b/2.png", "test/c/3.png"],
        (["train/a/1.png", "train/b/2.png"], ["test/c/3.png"], ("a", "b", "c")),
        {
            "splits": "trained on train (2), held out test (1), as the folders are called",
            "classes": "no image to train on of c",
        },
    ),
    "other-files": (
        ["1.png", *(f"{index}.HEIC" for index in range(3)), "notes.txt", "x", "metadata.jsonl", ".hidden"],
        (["1.png"], [], None),
        {"not used": "3 .heic, 1 .txt, 1 without a suffix"},
    ),
}


@pytest.mark.parametrize(("names", "expected", "remarks"), LAYOUTS.values(), ids=LAYOUTS)
def test_what_folders_and_files_mean_is_said(tmp_path, names, expected, remarks):
    for name in names:
        if name.endswith(".png"):
            save(tmp_path / name)
        elif name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("")
    if len(list(tmp_path.iterdir())) < len({name.split("/")[0] for name in names}):
        pytest.skip("a file system that does not tell upper from lower case")
    data = Folder(str(tmp_path), 4, batch_size=1, held_out=0, caption_key=None)
    train, held_out = data.source.train(), data.source.held_out()
    found = [sorted(images.reader.names[index] for index in range(len(images))) for images in (train, held_out)]
    assert (*found, data.classes) == expected
    for images in (train, held_out) if data.classes else ():
        assert [data.classes[label] for label in images.labels] == [name.split("/")[-2] for name in images.reader.names]
    assert data.remarks == remarks


def test_splits_are_part_of_the_fingerprint(tmp_path):
    save(tmp_path / "train/1.png")
    save(tmp_path / "tests/2.png")
    before = FolderSource(str(tmp_path), 4).fingerprint()
    assert FolderSource(str(tmp_path), 4, held_out=0.2).fingerprint() != before
    (tmp_path / "test").mkdir()
    split = FolderSource(str(tmp_path), 4)
    assert split.fingerprint() == FolderSource(str(tmp_path), 4, held_out=0.2).fingerprint() != before
    (tmp_path / "train/1.png").unlink()
    with pytest.raises(UserError, match=r"there are no images to train on in .*: trained on train \(0\), held out test \(0\)"):
        FolderSource(str(tmp_path), 4).train()


def test_a_class_whose_only_image_is_broken_is_named(tmp_path):
    for index in range(4):
        save(tmp_path / f"a/{index}.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/1.png").write_bytes(b"no image")
    data = Folder(str(tmp_path), 4, batch_size=1, held_out=0)
    assert data.remarks == {"classes": "no image to train on of b"}
    assert data.classes == ("a", "b")


def test_a_class_whose_images_are_broken_is_named_when_the_last_is_met(tmp_path, caplog):
    for index in range(4):
        save(tmp_path / f"{'ab'[index % 2]}/{index}.png")
    for name in ("a/5", "c/6", "c/7"):
        save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.png").write_bytes(b"no image")
    images = Folder(str(tmp_path), 4, batch_size=1, held_out=0, resident=False).train_set
    for _ in range(2):
        images.batch(torch.arange(len(images)))
    assert sum("skipped an image" in message for message in caplog.messages) == 3
    lines = [message for message in caplog.messages if "of the class" in message]
    assert lines == ["of the class c no image can be read, all 2 are skipped"]


def broken_folder(root: Path, num_good: int, num_bad: int) -> Path:
    for index in range(num_good):
        save(root / ("a" if index % 2 else "b") / f"{index}.png", 10 * (index % 2))
    for index in range(num_bad):
        (root / "a" / f"bad{index}.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    return root


@pytest.mark.parametrize(("num_bad", "num_named"), [(2, 2), (12, 10)])
def test_unreadable_images_are_named_counted_and_left_out(tmp_path, caplog, num_bad, num_named):
    root = broken_folder(tmp_path, 6, num_bad)
    data = Folder(str(root), 4, batch_size=2, seed=0, channels=1, held_out=0)
    assert len(data.train_set) == 6
    assert data.train_set.labels.tolist() == [0 if value else 1 for value in values(data.train_set.images(range(6)))]
    messages = [record.getMessage() for record in caplog.records]
    assert sum(f"cannot read {root}/a/bad" in message for message in messages) == num_named
    assert messages[-1] == f"{num_bad} of {6 + num_bad} images cannot be read and are left out"


def test_a_streamed_unreadable_image_is_replaced_with_its_label_and_named_once(tmp_path, caplog):
    images = FolderSource(str(broken_folder(tmp_path, 6, 3)), 4, channels=1, held_out=0).train()
    for _ in range(2):
        batch = images.batch(torch.arange(9))
        assert batch["label"].tolist() == [0 if value else 1 for value in values(batch["image"])]
    assert sum("cannot read" in record.getMessage() for record in caplog.records) == 3


def test_strict_makes_an_unreadable_image_fatal(tmp_path):
    images = FolderSource(str(broken_folder(tmp_path, 6, 1)), 4, held_out=0, strict=True).train()
    for read in (images.load, lambda: images.images(range(7))):
        with pytest.raises(UserError, match=r"^cannot read .*bad0.png: \w+: .*$"):
            read()


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def fashion(tmp_path) -> Path:
    """20 training and 10 test images of FashionMNIST's form: the grey level is ten times the label."""
    for split, num in (("train", 20), ("t10k", 10)):
        labels = np.arange(num) % 10
        raw = tmp_path / "FashionMNIST" / "raw"
        write_idx(raw / f"{split}-labels-idx1-ubyte", labels)
        write_idx(raw / f"{split}-images-idx3-ubyte", np.ones((num, 28, 28)) * 10 * labels[:, None, None])
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "shape"),
    [({}, Shape(1, 28, 28)), ({"resolution": 32}, Shape(1, 32, 32)), ({"channels": 3}, Shape(3, 28, 28))],
    ids=["own-shape", "resolution", "channels"],
)
def test_torchvision_idx_files(fashion, settings, shape):
    data = Torchvision("FashionMNIST", str(fashion), batch_size=4, seed=0, **settings)
    assert data.shape == shape
    assert data.flip is False
    assert data.classes[9] == "Ankle boot"
    for images, num in ((data.train_set, 20), (data.held_out_set, 10)):
        assert isinstance(images, ResidentImages)
        assert images.shape == shape
        assert len(images) == num
        assert values(images.images(range(num))) == (10 * images.labels).tolist()
        assert images.labels.tolist() != sorted(images.labels.tolist())
    before = data.source.fingerprint()
    write_idx(fashion / "FashionMNIST/raw/train-labels-idx1-ubyte", np.zeros(20))
    assert before != data.source.fingerprint()


def fake_cifar10(root: Path) -> None:
    for name in (*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"):
        pixels = np.full((2, 3, 1024), 0) + np.array([10, 20, 30])[:, None]
        (root / name).write_bytes(pickle.dumps({"data": pixels.reshape(2, -1).astype(np.uint8), "labels": [0, 1]}))
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))


def fake_stl10(root: Path) -> None:
    for split, num in (("train", 4), ("test", 2), ("unlabeled", 1)):
        pixels = np.broadcast_to(np.array([10, 20, 30], np.uint8)[:, None, None], (num, 3, 96, 96))
        (root / f"{split}_X.bin").write_bytes(pixels.tobytes())
        (root / f"{split}_y.bin").write_bytes(bytes(range(1, num + 1)))
    (root / "fold_indices.txt").write_text("")
    (root / "class_names.txt").write_text("\n".join("abcdefghij"))


def fake_food101(root: Path) -> None:
    (root / "meta").mkdir()
    for split in ("train", "test"):
        (root / "meta" / f"{split}.json").write_text('{"soup": ["soup/1"], "cake": ["cake/2"]}')
    for name in ("soup/1", "cake/2"):
        (root / "images" / name).parent.mkdir(parents=True)
        Image.new("RGB", (90, 70), (10, 20, 30)).save(root / "images" / f"{name}.jpg")


@pytest.mark.parametrize(
    ("name", "folder", "make", "shape"),
    [
        ("CIFAR10", "cifar-10-batches-py", fake_cifar10, Shape(3, 32, 32)),
        ("STL10", "stl10_binary", fake_stl10, Shape(3, 96, 96)),
        ("Food101", "food-101", fake_food101, Shape(3, 64, 64)),
    ],
    ids=["CIFAR10", "STL10", "Food101"],
)
def test_torchvision_layouts(tmp_path, monkeypatch, name, folder, make, shape):
    (tmp_path / folder).mkdir()
    make(tmp_path / folder)
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *args: True)
    monkeypatch.setattr(datasets.stl10, "check_integrity", lambda *args: True)
    source = TorchvisionSource(name, str(tmp_path))
    assert source.shape == shape
    assert source.symmetric
    for images in (source.train(), source.held_out()):
        batch = images.batch(torch.arange(len(images)))
        assert batch["image"].shape == (len(images), *shape)
        assert (batch["image"].double().mean((0, 2, 3)) - torch.tensor([10, 20, 30])).abs().max() < 2
        assert set(batch["label"].tolist()) <= set(range(len(source.classes)))


BAD = {
    "digits": (lambda p: DigitsSource(1797), "need 1 <= num_held_out < 1797, got 1797"),
    "absent": (lambda p: FolderSource(f"{p}/no", 8), "there is no folder {p}/no: data.root names a folder of images (.png"),
    "file": (lambda p: FolderSource(f"{p}/file", 8), "{p}/file is a file: data.root names"),
    "empty": (lambda p: FolderSource(f"{p}/empty", 8), "the folder {p}/empty is empty: data.root names"),
    "no-images": (
        lambda p: FolderSource(p, 8),
        "no images in the folder {p} and its subfolders, only 1 without a suffix: data.root",
    ),
    "resolution": (lambda p: FolderSource(p, 0), "need resolution >= 1, got resolution=0"),
    "channels": (lambda p: FolderSource(p, 8, channels=5), "need channels 1 (grey), 3 (RGB) or 4 (RGBA), got 5"),
    "held-out": (lambda p: FolderSource(p, 8, held_out=1.0), "need 0 <= held_out < 1, got 1.0"),
    "name": (lambda p: TorchvisionSource("cifar10", p), "unknown dataset 'cifar10': did you mean CIFAR10? data.name takes"),
    "missing": (
        lambda p: TorchvisionSource("SVHN", p),
        "no SVHN under {p}: missing train_32x32.mat, test_32x32.mat (data.down",
    ),
    "corrupt": (lambda p: TorchvisionSource("Flowers102", f"{p}/bad").train(), "cannot read Flowers102 under {p}/bad: "),
    "batch-size": (lambda p: Digits(batch_size=0, seed=0), "need batch_size >= 1, got 0"),
    "workers": (lambda p: Digits(batch_size=1, seed=0, num_workers=-1), "need num_workers >= 0, got -1"),
    "few": (lambda p: Digits(batch_size=798, seed=0).setup("fit"), "need at least batch_size * devices = 798 * 1 = 798 training"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(tmp_path, make, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("jpg", "imagelabels.mat", "setid.mat"):
        (tmp_path / "bad" / "flowers-102" / name).mkdir(parents=True)
    with pytest.raises(ValueError) as caught:
        make(str(tmp_path))
    assert str(caught.value).startswith(message.format(p=tmp_path))
    assert "\n" not in str(caught.value)


def test_folders_may_lie_as_deep_as_paths_are_long(tmp_path):
    depth = 200
    save(tmp_path.joinpath(*"a" * depth) / "1.png")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + depth // 2)
    try:
        assert sum(1 for _ in folder_entries(tmp_path)) == depth + 1
    finally:
        sys.setrecursionlimit(limit)


def test_many_images_are_decoded_in_threads_in_their_order(tmp_path):
    for index in range(40):
        save(tmp_path / f"{index}.png", index)
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = FolderSource(str(tmp_path), 4, channels=1, held_out=0).train()
    order = torch.randperm(41)
    found = values(images.images(order))
    assert found == [values(images.images([index]))[0] for index in order.tolist()]
    assert set(found) == set(range(40))
