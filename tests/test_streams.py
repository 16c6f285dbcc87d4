"""Images that are read one after the other: tar files of WebDataset, and datasets of Hugging Face that are streamed."""

import os
import sys

import pytest
import torch

import runs
from alphabar.data.loading.loader import ImageBatches, ImageLoader
from alphabar.data.loading.order import EpochOrder
from alphabar.data.sources.folder import Folder
from alphabar.data.sources.huggingface import HuggingFace
from alphabar.data.sources.webdataset import WebDataset, WebDatasetStream
from alphabar.data.streaming import stream_source, streams
from alphabar.errors import UserError
from alphabar.files.paths import caching_in
from streamed import NUM, PER_SHARD, PIXELS, assert_equal_data, png, write_all, write_parquet, write_shards, write_tar

SETTINGS = {"resolution": 8, "resident": False}


def folder_source(root, **settings):
    return Folder(str(root / "photos"), **{"held_out": 0.2, **SETTINGS, **settings})


@pytest.fixture
def home(tmp_path):
    """The folders `photos`, `shards` and `rows` with the same images, only to be read; counts of them are kept in an own cache."""
    with caching_in(str(tmp_path / "cache")):
        yield runs.shared("streams", write_all)


def fraction(home):
    """Returns the fraction of a stream that is as much as the folder holds out by the names of its files."""
    return len(folder_source(home).held_out_set) / NUM


def stream(home, kind, **settings):
    settings = {**SETTINGS, "held_out": fraction(home), "shuffle_buffer": NUM, **settings}
    if kind == "webdataset":
        return WebDataset(str(home / "shards"), classes=["cat", "dog"], **settings)
    return HuggingFace(str(home / "rows"), label_key="label", streaming=True, **settings)


KINDS = ("webdataset", "huggingface")


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_in_the_order_of_a_folder_has_its_batches(home, kind, resident):
    """Where the buffer holds the whole stream, also the order of training is that of the folder."""
    ours, theirs = stream(home, kind, resident=resident), folder_source(home)
    assert_equal_data(ours, theirs)
    assert EpochOrder(48, 8, 3, block_size=60).indices(2).equal(EpochOrder(48, 8, 3).indices(2))


def loader(home, kind, rank=0, world_size=1, **settings):
    data = stream(home, kind, shuffle_buffer=10, **settings)
    images = data.train_set
    return ImageLoader(ImageBatches(images), EpochOrder(len(images), 8 // world_size, 3, rank, world_size, block_size=10), True)


def batches(loader, num):
    found = []
    while len(found) < num:
        for batch in loader:
            found.append(batch["image"])
            if len(found) == num:
                break
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_goes_on_in_the_middle_of_an_epoch(home, kind, monkeypatch):
    """Also where a small buffer is jumped out of, at the end of an epoch and by what measures in between."""
    monkeypatch.setattr(streams, "NEARBY", 10)
    whole = loader(home, kind)
    expected = batches(whole, 14)
    for cut in (1, 4, 9):
        before = loader(home, kind)
        batches(before, cut)
        after = loader(home, kind)
        after.load_state_dict(before.state_dict())
        after.source.images.images(range(5))
        assert all(ours.equal(theirs) for ours, theirs in zip(batches(after, 14 - cut), expected[cut:], strict=True))


def test_an_epoch_has_every_image_once_and_blocks_one_after_the_other():
    order = EpochOrder(45, 6, 3, block_size=10)
    epochs = [order.indices(epoch).flatten() for epoch in range(3)]
    assert not epochs[0].equal(epochs[1])
    for indices in epochs:
        assert len(set(indices.tolist())) == len(indices) == 42
        assert (indices[:40] // 10).tolist() == [place // 10 for place in range(40)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_two_ranks_decodes_its_own_share_and_together_they_have_the_batches_of_one(home, kind, monkeypatch):
    alone, decoded = batches(loader(home, kind), 5), []
    cls = type(stream(home, kind).source.streams[0])
    open_item = cls.open
    monkeypatch.setattr(cls, "open", lambda self, item: decoded.append(item.name) or open_item(self, item))
    shares = [batches(loader(home, kind, rank, 2), 5) for rank in range(2)]
    assert all(torch.cat(parts).equal(batch) for *parts, batch in zip(*shares, alone, strict=True))
    assert len(decoded) == len(set(decoded)) == 5 * 8


def test_shards_before_the_place_where_a_run_goes_on_are_not_read(home, monkeypatch):
    read, items = [], WebDatasetStream.items
    monkeypatch.setattr(streams, "NEARBY", 10)
    monkeypatch.setattr(WebDatasetStream, "items", lambda self, shard: read.append(shard) or items(self, shard))
    images = stream(home, "webdataset", shuffle_buffer=10).train_set
    images.images(range(31, 34))
    assert read
    assert min(read) >= (NUM - len(images) + 30) // PER_SHARD


def test_a_stream_is_counted_once_and_keeps_two_blocks(home, monkeypatch):
    monkeypatch.setattr(streams, "NEARBY", 10)
    images = stream(home, "webdataset", shuffle_buffer=10).train_set
    for first in range(len(images) - 3):
        images.images(range(first, first + 3))
        assert all(len(cursor.kept) <= 20 for cursor in images.reader._cursors)
    assert len(images.reader._cursors) == 1
    with monkeypatch.context() as patch:
        patch.setattr(WebDatasetStream, "known", None)
        assert len(stream(home, "webdataset").train_set) == len(images)


def test_the_number_of_images_bounds_a_stream_and_is_not_counted(home, monkeypatch):
    monkeypatch.setattr(stream_source, "read_index", None)
    for kind, keys in (("webdataset", {"caption_key": None, "label_key": None}), ("huggingface", {"caption_key": None})):
        cls, name = (WebDataset, "shards") if kind == "webdataset" else (HuggingFace, "rows")
        more = {} if kind == "webdataset" else {"streaming": True}
        data = cls(str(home / name), num_images=20, held_out=0.1, **keys, **more, **SETTINGS)
        assert (len(data.train_set), len(data.held_out_set)) == (18, 2)
        assert len(data.train_set.images(range(18))) == 18
        data = cls(str(home / name), num_images=61, held_out=0, **keys, **more, **SETTINGS)
        with pytest.raises(UserError, match=r"(x-008.tar|train-00008.*): the stream ends after 60 images, 61 were expected"):
            data.train_set.images([60])


def test_other_shards_are_held_out_whole(home, tmp_path):
    write_shards(tmp_path / "others", [{"png": png(number)} for number in range(9)])
    data = WebDataset(str(home / "shards"), held_out_shards=str(tmp_path / "others"), label_key=None, caption_key=None, **SETTINGS)
    assert (len(data.train_set), len(data.held_out_set)) == (NUM, 9)
    assert data.held_out_set.images([3])[0].permute(1, 2, 0).numpy().tolist() == PIXELS[3].tolist()


BRIEF = (*runs.BRIEF, "network=unet_tiny", "data.batch_size=8", "trainer.log_every_n_steps=1", "callbacks.held_out_loss.num=4")


def losses(folder):
    rows = runs.table(folder / "metrics.csv")
    return [
        (row["step"], row.get("train/loss"), row.get("held_out/loss"))
        for row in rows
        if row.get("train/loss") or row.get("held_out/loss")
    ]


def sources(home):
    split = f"data.held_out={fraction(home)}"
    return {
        "prepared": ("data=prepared", "data.root=ready"),
        "webdataset": ("data=webdataset", f"data.shards={home}/shards/x-{{000..008}}.tar", split, "data.shuffle_buffer=60"),
        "huggingface": ("data=huggingface", f"data.name={home}/rows", "data.streaming=true", split, "data.shuffle_buffer=60"),
    }


def test_runs_on_equal_images_have_equal_losses_also_where_they_go_on(command, home, tmp_path):
    """A folder without a cut, and prepared and streamed images in runs that stop in the middle of an epoch and go on."""
    size = ("data.resolution=8",)
    folder = ("data=folder", f"data.root={home}/photos", "data.held_out=0.2", *size)
    assert command("prepare", *folder, "to=ready")[0] == 0
    brief = [word for word in BRIEF if not word.startswith("trainer.max_steps")]
    code, _, err = command(
        "train", *runs.words(*folder, *brief, "trainer.max_steps=9", "data.resident=false", folder=tmp_path / "folder")
    )
    assert code == 0, err
    expected = [row[:2] for row in losses(tmp_path / "folder") if row[1]]
    assert len(expected) == 9
    for name, words in sources(home).items():
        shape = () if name == "prepared" else size
        run = tmp_path / "runs" / name
        for more in (
            runs.words(*words, *shape, *brief, "trainer.max_steps=4", "data.resident=false", folder=run),
            [f"resume={run}", "trainer.max_steps=9"],
        ):
            code, _, err = command("train", *more)
            assert code == 0, err
        assert [row[:2] for row in losses(run) if row[1]] == expected, name
        assert losses(run)[-1] == losses(tmp_path / "folder")[-1]


def test_a_stream_can_be_prepared(command, home, tmp_path):
    words = sources(home)["webdataset"]
    code, _, err = command("prepare", *words, "data.resolution=8", "to=ready")
    assert code == 0, err
    from alphabar.data.sources.prepared import Prepared

    assert Prepared("ready").train_set.load().pixels.equal(stream(home, "webdataset").train_set.load().pixels)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def lie(path):
    """Writes a tar file whose header promises a large file."""
    content = bytearray(path.read_bytes())
    content[124:136] = b"77777777777\0"
    content[148:156] = b" " * 8
    content[148:156] = f"{sum(content[:512]):06o}\0 ".encode()
    path.write_bytes(content)


SHARDS = {
    "cut": (lambda path: cut(path / "x-001.tar"), "x-001.tar is cut or no plain tar file"),
    "no tar": (lambda path: (path / "x-001.tar").write_bytes(b"x" * 2000), "x-001.tar is cut or no plain tar file"),
    "a promise": (lambda path: lie(path / "x-001.tar"), "x-001.tar: .*0007.png promises 8,589,934,591 bytes, which cannot be in"),
    "a folder": (lambda path: os.unlink(path / "x-001.tar") or (path / "x-001.tar").mkdir(), "x-001.tar is cut .*: it is a folder"),
    "nothing": (
        lambda path: [file.unlink() for file in path.iterdir()],
        "data.shards=.*: there are no such files: data.shards names",
    ),
    "empty": (lambda path: [write_tar(file, {}) for file in path.iterdir()], "there are no images in .*x-000.tar"),
    "some labels": (
        lambda path: write_tar(path / "x-002.tar", {"20.png": png(0), "20.cls": b"1", "21.png": png(0)}),
        r"item 0 of .*x-000.tar has no label, as 15 of 16 items have; data.label_key=null",
    ),
    "a text as label": (
        lambda path: write_tar(path / "x-000.tar", {"0.png": png(0), "0.cls": b"dog"}),
        "0 in .*x-000.tar: need UTF-8",
    ),
    "twice": (lambda path: write_tar(path / "x-000.tar", {"0.png": png(0), "0.PNG": png(0)}), "x-000.tar .*duplicate file name"),
}


@pytest.mark.parametrize("case", SHARDS)
def test_bad_shards_end_in_one_line_that_names_them(tmp_path, case):
    shards = write_shards(tmp_path / "shards", [{"png": png(number)} for number in range(14)])
    change, message = SHARDS[case]
    change(shards)
    with caching_in(str(tmp_path / "cache")), pytest.raises(UserError, match=message) as caught:
        WebDataset(str(shards), held_out=0, **SETTINGS).train_set.images(range(14))
    assert "\n" not in str(caught.value)


def test_a_shard_that_is_cut_after_it_was_counted_is_named(tmp_path):
    shards = write_shards(tmp_path / "shards", [{"png": png(number)} for number in range(14)])
    with caching_in(str(tmp_path / "cache")):
        images = WebDataset(str(shards), held_out=0, **SETTINGS).train_set
        write_tar(shards / "x-000.tar", {"0.png": png(0)})
        with pytest.raises(UserError, match=r"x-000.tar ends after 1 items, it had 7 when they were counted"):
            images.images(range(14))


def test_an_item_without_an_image_is_named_and_skipped(tmp_path, caplog):
    items = [{"png": png(number)} if number != 9 else {"txt": b"none"} for number in range(14)]
    shards = write_shards(tmp_path / "shards", items)
    settings = {"caption_key": None, "label_key": None, "held_out": 0, **SETTINGS}
    with caching_in(str(tmp_path / "cache")):
        found = WebDataset(str(shards), **settings).train_set.images([8, 9])
        assert found[1].permute(1, 2, 0).numpy().tolist() == PIXELS[10].tolist()
        assert "cannot read 0009 in " in caplog.text
        assert "x-001.tar: ValueError: there is no image beside the other files" in caplog.text
        with pytest.raises(UserError, match=r"cannot read 0009 in .*x-001.tar"):
            WebDataset(str(shards), strict=True, **settings).train_set.images([9])


ROWS = {
    "a column": ({"image_key": "picture"}, "data.image_key=picture: .*rows has no such column, it has image, text, label"),
    "no images": ({"image_key": "text"}, "data.image_key=text: need a column of type Image"),
    "no classes": ({"label_key": "text"}, "data.label_key=text: need a column of type ClassLabel"),
    "a split": ({"split": "best"}, "has no split 'best', it has train: set data.split"),
    "more images": ({"num_images": 61}, "data.num_images=61: there are 60 images"),
    "no images at all": ({"num_images": 0}, "need data.num_images >= 1, got 0"),
    "no buffer": ({"shuffle_buffer": 0}, "need data.shuffle_buffer >= 1, got 0"),
    "workers": ({"num_workers": 2}, "data.num_workers=2: threads of one process read and decode a stream, need null or 0"),
    "buckets": ({"buckets": [8, [8, 16]], "resident": None}, "data.buckets: a stream is read in its own order"),
    "the hub": ({"name": "me/photos"}, "a stream of the hub needs data.download=true"),
}


@pytest.mark.parametrize("case", ROWS)
def test_bad_settings_of_a_stream_end_in_one_line(home, case):
    settings, message = ROWS[case]
    with pytest.raises(ValueError, match=message) as caught:
        HuggingFace(**{"name": str(home / "rows"), "streaming": True, **SETTINGS, **settings}).train_set.images([0])
    assert "\n" not in str(caught.value)


def test_a_parquet_file_that_is_cut_is_named(tmp_path):
    write_parquet(tmp_path / "rows", list(range(14)))
    cut(tmp_path / "rows/data/train-00001-of-00002.parquet")
    with caching_in(str(tmp_path / "cache")), pytest.raises(UserError, match=r"train-00001-of-00002.parquet: cannot be read"):
        HuggingFace(str(tmp_path / "rows"), streaming=True, **SETTINGS).train_set.images([0])


def test_without_the_library_it_says_what_to_install(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(UserError, match=r"pip install 'alphabar\[webdataset\]'"):
        WebDataset(str(home / "shards"), **SETTINGS)
