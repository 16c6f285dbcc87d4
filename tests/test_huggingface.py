"""Datasets of Hugging Face: saved to disk, in Parquet files and as folders of images, all without a network."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar.data.loading.loader import ImageBatches, ImageLoader
from alphabar.data.loading.order import EpochOrder
from alphabar.data.sources.huggingface import HuggingFace, HuggingFaceSource
from alphabar.errors import UserError

datasets = pytest.importorskip("datasets")
NUM = 20
COLUMNS = {"image": datasets.Image(), "text": datasets.Value("string"), "kind": datasets.ClassLabel(names=["even", "odd"])}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch, tmp_path):
    """No bars, no network, and a cache of our own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def caption(value):
    return f"grey {value // 2}"


def rows(num=NUM, start=0):
    values = range(start, start + num)
    content = {"image": [Image.new("L", (8, 8), value) for value in values], "text": [caption(value) for value in values]}
    return datasets.Dataset.from_dict({**content, "kind": [value % 2 for value in values]}, features=datasets.Features(COLUMNS))


def saved(folder):
    rows().save_to_disk(folder)
    return {}


def saved_with_splits(folder):
    datasets.DatasetDict({"train": rows(15), "test": rows(5, start=15)}).save_to_disk(folder)
    return {"held_out_split": "test"}


def parquet(folder):
    folder.mkdir()
    rows().to_parquet(folder / "train.parquet")
    return {}


def folder_of_images(folder):
    folder.mkdir()
    for value in range(NUM):
        Image.new("L", (8, 8), value).save(folder / f"{value}.png")
    lines = [json.dumps({"file_name": f"{value}.png", "text": caption(value), "kind": value % 2}) for value in range(NUM)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return {"label_key": None}


@pytest.mark.parametrize("save", [saved, saved_with_splits, parquet, folder_of_images])
def test_images_come_with_their_captions_and_classes(tmp_path, save):
    settings = {"label_key": "kind", "held_out": 0.25, "channels": 1} | save(tmp_path / "data")
    data = HuggingFace(str(tmp_path / "data"), 4, batch_size=4, resident=False, **settings)
    data.prepare_data()
    assert data.captions == tuple(sorted({caption(value) for value in range(NUM)}))
    assert data.classes == (("even", "odd") if settings["label_key"] else None)
    seen = []
    for images, num in ((data.train_set, 15), (data.held_out_set, 5)):
        assert len(images) == num
        batch = images.batch(torch.arange(num))
        values = batch["image"][:, 0, 0, 0].tolist()
        assert values != sorted(values)
        assert [data.captions[place] for place in batch["caption"]] == [caption(value) for value in values]
        assert ("label" in batch) == (settings["label_key"] is not None)
        if "label" in batch:
            assert batch["label"].tolist() == [value % 2 for value in values]
        seen += values
    assert sorted(seen) == list(range(NUM))
    if save is saved_with_splits:
        assert sorted(seen[15:]) == list(range(15, 20))
    again = HuggingFace(str(tmp_path / "data"), 4, batch_size=4, **settings)
    assert again.source.fingerprint() == data.source.fingerprint()
    other = HuggingFace(str(tmp_path / "data"), 4, batch_size=4, **settings | {"caption_key": None})
    assert other.source.fingerprint() != data.source.fingerprint()
    assert other.captions is None
    assert "caption" not in other.train_set.batch(torch.arange(2))


def test_workers_read_them_too(tmp_path):
    saved(tmp_path / "data")
    data = HuggingFace(str(tmp_path / "data"), 4, channels=1, held_out=0)
    loader = ImageLoader(
        ImageBatches(HuggingFaceSource(str(tmp_path / "data"), 4, 1, held_out=0).train()), EpochOrder(NUM, 4, 0), False, 2
    )
    batches = list(loader)
    loader.close()
    assert len(batches) == 5
    for batch in batches:
        values = batch["image"][:, 0, 0, 0].tolist()
        assert [data.captions[place] for place in batch["caption"]] == [caption(value) for value in values]
    assert len(data.train_set) == NUM


def without_captions(folder):
    dataset = rows().to_dict() | {"text": ["a"] * 3 + [None, " "] + ["a"] * 15}
    datasets.Dataset.from_dict(dataset, features=datasets.Features(COLUMNS)).save_to_disk(folder)


BAD = {
    "nothing": (lambda folder: None, {}, "data.name={p}: there is no such folder, and"),
    "nothing to fetch": (lambda folder: None, {"download": True}, "data.name={p}: cannot load this dataset ("),
    "no-split": (saved_with_splits, {"held_out_split": "val"}, "{p} has no split 'val', it has train, test: set data.split"),
    "no-column": (saved, {"caption_key": "words"}, "data.caption_key=words: {p} has no such column, it has image, text, kind"),
    "no-image": (saved, {"image_key": "text"}, "data.image_key=text: need a column of type Image, got Value("),
    "no-classes": (saved, {"label_key": "text"}, "data.label_key=text: need a column of type ClassLabel, of {p}"),
    "lacking": (
        without_captions,
        {},
        "{p} has no caption 'text' for 2 of 20 images, the first of them is row 3; data.caption_key=null",
    ),
    "resolution": (saved, {"resolution": 0}, "need resolution >= 1, got resolution=0"),
    "channels": (saved, {"channels": 2}, "need channels 1 (grey), 3 (RGB) or 4 (RGBA), got 2"),
    "held-out": (saved, {"held_out": 1}, "need 0 <= held_out < 1, got 1"),
}


@pytest.mark.parametrize(("save", "settings", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(tmp_path, save, settings, message):
    save(tmp_path / "data")
    with pytest.raises(ValueError) as caught:
        HuggingFaceSource(str(tmp_path / "data"), **{"resolution": 4} | settings).train()
    assert str(caught.value).startswith(message.format(p=tmp_path / "data"))
    assert "\n" not in str(caught.value)


@pytest.fixture
def in_cache(tmp_path, monkeypatch):
    """The dataset somebody/images as the library keeps it after a download."""
    from datasets.packaged_modules.parquet.parquet import Parquet

    parquet(tmp_path / "files")
    files = {"train": [str(tmp_path / "files" / "train.parquet")]}
    Parquet(dataset_name="images", hash="0", data_files=files).download_and_prepare()
    (made,) = (tmp_path / "cache" / "images").iterdir()
    made.rename(made.with_name("default"))
    made.parent.rename(tmp_path / "cache" / "somebody___images")
    monkeypatch.setattr(datasets, "load_dataset", None)  # whatever would ask the hub


def test_without_a_download_a_dataset_of_the_hub_comes_from_the_cache(in_cache):
    images = HuggingFaceSource("somebody/images", 4, 1, held_out=0).train()
    assert len(images) == NUM
    for name in ("somebody/other", "e"):
        with pytest.raises(
            UserError, match=rf"^data.name={name}: .*not fetched; data.download=true fetches it, or data_root={name}"
        ):
            HuggingFaceSource(name, 4).prepare()
    for name in ("buckets/some/body/images", "hf://datasets/somebody/images", "https://localhost/x"):
        with pytest.raises(UserError, match=rf"^data.name={name}: there is no such folder"):
            HuggingFaceSource(name, 4).prepare()


def test_a_missing_library_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'alphabar\[huggingface\]'$"):
        HuggingFaceSource(str(tmp_path), 4).prepare()


def test_a_dataset_without_captions_has_classes(tmp_path):
    rows().remove_columns("text").save_to_disk(tmp_path / "data")
    data = HuggingFace(str(tmp_path / "data"), 4, channels=1, label_key="kind")
    data.prepare_data()  # the classes are asked for before it is known whether anything wants captions
    assert data.classes == ("even", "odd")
    with pytest.raises(UserError, match=r"^data.caption_key=text: .* has no such column, it has image, kind$"):
        assert data.captions
    data.leave_out_captions()
    assert data.captions is None
    assert set(data.train_set.batch(torch.arange(2))) == {"image", "label"}


def test_grey_of_16_bits_keeps_its_range_where_it_is_asked_for(tmp_path):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257 + 1
    datasets.Dataset.from_dict(
        {"image": [Image.fromarray(ramp)] * 2}, features=datasets.Features({"image": datasets.Image()})
    ).save_to_disk(tmp_path / "data")
    found = HuggingFace(str(tmp_path / "data"), 16, channels=1, held_out=0, caption_key=None, bits=16)
    assert found.train_set.images([0]).tolist() == [[ramp.tolist()]]
