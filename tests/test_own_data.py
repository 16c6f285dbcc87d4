"""Data as users have them: a dataset of their own, and arrays in a file."""

import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset

import runs
from alphabar.data.sources.arrays import Arrays
from alphabar.data.sources.dataset import MapDataset
from alphabar.data.sources.folder import Folder
from alphabar.errors import UserError

PIXELS = np.random.RandomState(0).randint(0, 256, (40, 8, 8, 3)).astype(np.uint8)
LABELS = np.arange(40) % 3
VECTORS = np.stack([np.arange(40) / 10, -(np.arange(40) ** 2)], 1).astype(np.float32)
CAPTIONS = [f"the number {number % 7}" for number in range(40)]


class Cells:
    """A dataset: `give(number)` makes an item."""

    def __init__(self, give=lambda number: PIXELS[number], num=40):
        self.give, self.num = give, num

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        return self.give(index)


def folder(path):
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(path / f"{number:06d}.png")
    return Folder(str(path), 8, held_out=0.3)


def npz(path, **arrays):
    np.savez(path, **{"images": PIXELS, **arrays})
    return str(path)


ITEMS = {
    "array": lambda number: PIXELS[number],
    "tensor": lambda number: torch.from_numpy(PIXELS[number]).permute(2, 0, 1),
    "picture": lambda number: Image.fromarray(PIXELS[number]),
    "pair": lambda number: (Image.fromarray(PIXELS[number]), int(LABELS[number])),
    "mapping": lambda number: {"image": PIXELS[number], "label": torch.tensor(LABELS[number]), "caption": CAPTIONS[number]},
}


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("kind", [*ITEMS, "npz", "npy", "channels first"])
def test_equal_images_are_equal_batches_wherever_they_come_from(tmp_path, kind, resident):
    """The source numbers its images as a folder has files 000000.png, 000001.png, ..."""
    expected = folder(tmp_path)
    if kind == "npy":
        np.save(tmp_path / "x.npy", PIXELS)
        data = Arrays(str(tmp_path / "x.npy"), held_out=0.3, resident=resident)
    elif kind == "npz":
        data = Arrays(npz(tmp_path / "x.npz"), held_out=0.3, resident=resident)
    elif kind == "channels first":
        data = Arrays(npz(tmp_path / "x.npz", images=PIXELS.transpose(0, 3, 1, 2)), held_out=0.3, resident=resident)
    else:
        data = MapDataset(Cells(ITEMS[kind]), held_out=0.3, resident=resident)
    assert data.shape == expected.shape
    for ours, theirs in ((data.train_set, expected.train_set), (data.held_out_set, expected.held_out_set)):
        assert len(ours) == len(theirs) > 0
        assert ours.images(range(len(ours))).equal(theirs.images(range(len(theirs))))


def test_what_is_known_of_an_image_stays_beside_it(tmp_path):
    """Labels, captions and vectors are those of the same number, from a dataset and from an array alike."""
    keys = {"labels": LABELS, "captions": np.array(CAPTIONS), "vectors": VECTORS}

    def everything(number):
        return {"image": PIXELS[number], "label": int(LABELS[number]), "caption": CAPTIONS[number], "vector": VECTORS[number]}

    for data in (MapDataset(Cells(everything)), Arrays(npz(tmp_path / "x.npz", **keys))):
        assert (data.classes, data.source.vector_length, len(data.captions)) == (("0", "1", "2"), 2, 7)
        for images in (data.train_set, data.held_out_set, data.source.train()):
            batch = images.batch(torch.arange(len(images)))
            places = [next(n for n in range(40) if (PIXELS[n] == image.permute(1, 2, 0).numpy()).all()) for image in batch["image"]]
            assert batch["label"].tolist() == LABELS[places].tolist()
            assert [data.captions[place] for place in batch["caption"]] == [CAPTIONS[place] for place in places]
            assert batch["vector"].equal(torch.from_numpy(VECTORS[places]))


def test_labels_of_torchvision_are_read_without_the_images():
    read = []

    class Counting(Cells):
        targets, classes = LABELS.tolist(), ["ant", "bee", "cat"]

        def __getitem__(self, index):
            read.append(index)
            return PIXELS[index], int(LABELS[index])

    data = MapDataset(Counting())
    assert data.classes == ("ant", "bee", "cat")
    assert len(set(read)) < 10
    assert MapDataset(Counting(), classes=["x", "y", "z"]).classes == ("x", "y", "z")


def test_a_dataset_of_its_own_is_held_out_whole():
    data = MapDataset(Cells(), Cells(num=7))
    assert (len(data.train_set), len(data.held_out_set)) == (40, 7)


def test_images_of_any_sizes_are_cropped_and_scaled_where_a_resolution_is_asked_for():
    sizes = [(9, 7), (16, 31), (8, 8)]
    pictures = [Image.fromarray(np.full((*size, 3), 100, np.uint8)) for size in sizes]
    arrays = [np.full((*size, 5), 100, np.uint8) for size in sizes]
    for items, channels in ((pictures, 3), (arrays, 5)):
        data = MapDataset(Cells(items.__getitem__, 3), held_out=0, resolution=6)
        assert data.shape == (channels, 6, 6)
        assert data.train_set.images(range(3)).unique().tolist() == [100]
    assert MapDataset(Cells(pictures.__getitem__, 3), held_out=0, resolution=6, channels=1).shape.channels == 1
    data = MapDataset(Cells(pictures.__getitem__, 3), held_out=0, resolution=6, buckets=[6, [4, 8]], batch_size=1)
    assert data.remarks["buckets"] == "6x6: 2, 4x8: 1; FID is of 6x6"


def test_sixteen_bits_are_reduced_to_eight(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(2 * 64, dtype=np.uint16).reshape(2, 8, 8) * 515)
    images = Arrays(str(tmp_path / "x.npy"), held_out=0).train_set.images(range(2))
    assert sorted(images.flatten().tolist()) == [round(value * 515 / 257) for value in range(128)]


def test_the_fingerprint_tells_other_images_and_other_labels_from_these():
    def known(label, pixels=PIXELS):
        return MapDataset(Cells(lambda number: (pixels[number], label))).source.fingerprint()

    assert known(1) == known(1) != known(0)
    assert known(1) != known(1, pixels=PIXELS ^ 1)


class Endless(IterableDataset):
    def __iter__(self):
        yield PIXELS[0]


def odd(image):
    return lambda number: image if number == 17 else PIXELS[number]


MISTAKES = {
    "nothing": (Cells(num=0), "there are no images"),
    "no images": (Cells(lambda number: None), "need an image as a Pillow image, an array or a tensor, got NoneType"),
    "floats": (Cells(lambda number: torch.rand(3, 8, 8) * 300), r"item 0 of Cells: .*got float32 \[3, 8, 8\] from .*ToTensor"),
    "sizes": (Cells(odd(PIXELS[0, :, :4])), "item 17 of Cells: .*8x8 with 3 channels, as the first one, got 8x4"),
    "channels": (Cells(odd(PIXELS[0, :, :, :2])), "item 17 of Cells: .*got 8x8 with 2 channels"),
    "an error": (Cells(lambda number: PIXELS[{0: 0}[number]]), r"cannot read item \d+ of Cells: KeyError"),
    "a label": (Cells(lambda number: (PIXELS[number], 0.5)), "item 0 of Cells: .*need a label that is a whole number, got 0.5"),
    "labels missing": (
        Cells(lambda number: (PIXELS[number], None if number == 9 else 1)),
        "item 9 .*need label .* as of item 0, got",
    ),
    "a vector": (Cells(lambda number: (PIXELS[number], [float("nan")])), "need a vector of finite numbers"),
    "vectors": (
        Cells(lambda number: (PIXELS[number], [1.0] * (1 + (number > 8)))),
        "item 9 of Cells has a vector of 2 numbers, item 0",
    ),
    "keys": (Cells(lambda number: {"img": PIXELS[number]}), "need a mapping with the key image .*got the keys img"),
    "channels first": (
        Cells(lambda number: PIXELS[number].transpose(2, 0, 1)),
        r"need an array \[H, W, C\], got uint8 \[3, 8, 8\]",
    ),
    "endless": (Endless(), "dataset=Endless: .*this one can only be iterated"),
    "a number": (5, "dataset=int: need a dataset with __len__ and __getitem__"),
}


@pytest.mark.parametrize("case", MISTAKES)
@pytest.mark.parametrize("resident", [True, False])
def test_bad_items_end_in_one_line_that_names_them(case, resident):
    dataset, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message) as caught:
        MapDataset(dataset, resident=resident, held_out=0).train_set.batch(torch.arange(40))
    assert "\n" not in str(caught.value)


ARRAYS = {
    "floats": ({"images": PIXELS / 255}, "need images as uint8 .*got float64"),
    "no images": ({"pictures": PIXELS, "images": None}, "need an array images or x or arr_0, got pictures"),
    "layout": ({"images": np.zeros((4, 5, 6, 7), np.uint8)}, r"data.layout: which of \[4, 5, 6, 7\]"),
    "dimensions": ({"images": np.zeros((4, 5), np.uint8)}, "need images .*got"),
    "few labels": ({"labels": LABELS[:5]}, r"need 40 labels, as many as images, got \[5\]"),
    "labels": ({"labels": LABELS + 0.5}, "need labels as whole numbers"),
    "more labels": ({"labels": LABELS, "classes": np.array(["a", "b"])}, "has the label 2: need 0 to 1"),
    "vectors": ({"vectors": VECTORS * np.nan}, "need vectors as finite numbers"),
    "pickles": ({"labels": np.array([{}] * 40, dtype=object)}, "labels.npy is pickled"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_bad_arrays_end_in_one_line(tmp_path, case):
    arrays, message = ARRAYS[case]
    np.savez(tmp_path / "x.npz", **{key: value for key, value in ({"images": PIXELS} | arrays).items() if value is not None})
    with pytest.raises(UserError, match=message):
        _ = Arrays(str(tmp_path / "x.npz")).classes


@pytest.mark.parametrize(
    "content", [b"", b"no array", b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (9, 9, 9)}"]
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damaged_arrays_end_in_one_line(tmp_path, content, suffix):
    (tmp_path / f"x{suffix}").write_bytes(content)
    with pytest.raises(UserError, match="cannot read"):
        Arrays(str(tmp_path / f"x{suffix}"))


@pytest.fixture
def mylab(monkeypatch):
    """The module of somebody's dataset, which a configuration may name."""
    module = types.ModuleType("alphabar.mylab")
    exec(
        "import numpy as np\n"
        "class Cells:\n"
        "    def __init__(self, path: str) -> None:\n"
        "        with np.load(path) as file:\n"
        "            self.file = dict(file)\n"
        "    def __len__(self):\n"
        "        return len(self.file['images'])\n"
        "    def __getitem__(self, index):\n"
        "        return self.file['images'][index], int(self.file['labels'][index])\n",
        module.__dict__,
    )
    monkeypatch.setitem(sys.modules, "alphabar.mylab", module)


BRIEF = (*runs.BRIEF, "network=unet_tiny", "data.batch_size=8", "trainer.log_every_n_steps=1", "callbacks.held_out_loss.num=4")


def test_runs_on_equal_images_have_equal_losses(command, tmp_path, mylab):
    """A folder, an array and a dataset give the same batches, so that the losses are the same to the bit."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    folder(pictures)
    path = npz(tmp_path / "x.npz", labels=LABELS)
    sources = {
        "folder": ("data=folder", f"data.root={pictures}", "data.resolution=8"),
        "arrays": ("data=arrays", f"data.path={path}"),
        "dataset": ("data=dataset", "data.dataset._target_=alphabar.mylab.Cells", f"+data.dataset.path={path}"),
    }
    losses = []
    for name, overrides in sources.items():
        code, _, err = command("train", *runs.words(*overrides, *BRIEF, "data.held_out=0.3", folder=tmp_path / name))
        assert code == 0, err
        rows = runs.table(tmp_path / name / "metrics.csv")
        losses.append([(row.get("train/loss"), row.get("held_out/loss")) for row in rows])
    assert losses[0] == losses[1] == losses[2]
    assert {len([row for row in losses[0] if row[place]]) for place in (0, 1)} == {2}


MODULE = """
import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset
import torch

class Cells:
    def __init__(self, path: str) -> None:
        with np.load(path) as file:
            self.file = dict(file)
    def __len__(self):
        return len(self.file["images"])
    def __getitem__(self, index):
        return self.file["images"][index], int(self.file["labels"][index])

class Training(LightningDataModule):
    def __init__(self, path: str, batch_size: int = 8) -> None:
        super().__init__()
        self.path, self.batch_size = path, batch_size
    def setup(self, stage):
        self.cells = Cells(self.path)
    def train_dataloader(self):
        return DataLoader(self.cells, self.batch_size, shuffle=True)

class Both(Training):
    def val_dataloader(self):
        return DataLoader(torch.utils.data.Subset(self.cells, range(5)))

class Stream(IterableDataset):
    def __iter__(self):
        yield 1

class Endless(Training):
    def train_dataloader(self):
        return DataLoader(Stream())

class Lists(Training):
    def train_dataloader(self):
        return [1]
"""


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """A module of somebody else's, with a dataset and with data modules, and the file of its images."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "own_lab.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "lab")
    yield npz(tmp_path / "x.npz", labels=LABELS)
    sys.modules.pop("own_lab", None)


def test_a_data_module_of_ones_own_has_the_batches_of_its_dataset(command, tmp_path, lab):
    """It trains, goes on, samples and is evaluated; its own order is not used, and a line says so."""
    losses = []
    for name, words in {
        "dataset": ("data=dataset", "data.dataset._target_=own_lab.Cells", f"+data.dataset.path={lab}"),
        "module": ("data=datamodule", "data._target_=own_lab.Training", f"+data.path={lab}"),
    }.items():
        code, out, err = command("train", *runs.words(*words, *BRIEF, folder=tmp_path / name))
        assert code == 0, err
        losses.append([(row["train/loss"], row["held_out/loss"]) for row in runs.table(tmp_path / name / "metrics.csv")])
    assert losses[0] == losses[1]
    assert "the datasets of Training are used, not the order" in out
    code, _, err = command("train", f"resume={tmp_path / 'module'}", "trainer.max_steps=4")
    assert code == 0, err
    settings = ["metric=fid", "statistics.fid.allow_few=true", "features=pixels", f"features.cache_dir={runs.CACHE}", "num=8"]
    code, _, err = command(
        "evaluate", f"checkpoint={tmp_path / 'module'}", "sampler.num_steps=2", *settings, "hydra.run.dir=judged"
    )
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=datamodule"], "error: data._target_: missing, give data._target_=..."),
        (
            ["data=datamodule", "data._target_=own_lab.Cells"],
            "error: data: a subclass of LightningDataModule goes there, and Cells is none",
        ),
        (
            ["data=datamodule", "data._target_=own_lab.Endless"],
            "error: data: Endless.train_dataloader=Stream: need a dataset with __len__",
        ),
        (
            ["data=datamodule", "data._target_=own_lab.Lists"],
            "error: data: Lists.train_dataloader: need a torch.utils.data.DataLoader, got list",
        ),
        (["data=datamodule", "data._target_=own_lab.Both", "data.path=none.npz"], "error: data: Both.setup: FileNotFoundError"),
        (
            ["data=dataset", "data.dataset._target_=own_lab.Nothing"],
            "error: data.dataset: _target_ own_lab.Nothing: there is no class Nothing",
        ),
        (["data=dataset", "data.dataset._target_=own_lab.Cells"], "error: data.dataset: Cells needs 'path'"),
        (["data=dataset", "data.dataset._target_=own_lab.Stream"], "error: data.dataset: expected MapStyleDataset, got Stream"),
        (["data=dataset"], "error: data.dataset._target_: missing, give data.dataset._target_=..."),
        (["data=arrays", "data.path=none.npy"], "error: data: there is no file "),
    ],
)
def test_other_mistakes_with_ones_own_data_end_in_one_line(command, lab, words, message):
    given = [word if word != "data.path=none.npz" else f"+{word}" for word in words]
    if words[0] == "data=datamodule" and len(words) == 2 and "Cells" not in words[1]:
        given.append(f"+data.path={lab}")
    code, _, err = command("train", *given)
    assert code == 2
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_the_validation_data_of_a_data_module_are_held_out(lab):
    import own_lab

    from alphabar.data.sources.own_datamodule import adapted

    data = adapted(own_lab.Both(lab, batch_size=7), seed=3)
    assert (len(data.train_set), len(data.held_out_set), data.batch_size, data.seed) == (40, 5, 7, 3)
