"""Captions of images in a folder: which image has which, wherever the images lie, and messages about bad files."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import runs
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.loading.loader import ImageBatches, ImageLoader
from alphabar.data.loading.order import EpochOrder
from alphabar.data.sources.digits import DigitsSource
from alphabar.data.sources.folder import Folder, FolderSource
from alphabar.errors import UserError

NUM = 24
PIXELS = ("features=pixels", f"features.cache_dir={runs.CACHE}")


def caption(value: int) -> str:
    """Every grey level has its own, but for every third."""
    return "a third" if value % 3 == 0 else f"grey {value:02}"


@pytest.fixture
def root(tmp_path) -> Path:
    """Image i, of grey level i, in two folders, one of them with an accent."""
    for value in range(NUM):
        path = tmp_path / name(value)
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), value).save(path)
    describe(tmp_path)
    return tmp_path


def name(value: int) -> str:
    return f"{('a', 'é')[value % 2]}/{value}.png"


def describe(root: Path, *more: str, key: str = "text", left_out: int = 0) -> None:
    lines = [json.dumps({"file_name": name(value), key: caption(value), "score": 1}) for value in range(left_out, NUM)]
    (root / "metadata.jsonl").write_text("\n".join([*lines, *more]) + "\n", encoding="utf-8")


def make(root: Path, **settings) -> Folder:
    return Folder(str(root), 4, batch_size=5, seed=0, channels=1, **settings)


def check(batch: dict[str, torch.Tensor], captions: tuple[str, ...]) -> None:
    """Every image has its own caption."""
    assert batch["caption"].dtype == torch.int64
    values = batch["image"][:, 0, 0, 0].tolist()
    assert [captions[place] for place in batch["caption"]] == [caption(value) for value in values]


@pytest.mark.parametrize("resident", [True, False])
def test_images_come_with_their_captions(root, resident):
    data = make(root, resident=resident, held_out=0.3)
    assert data.captions == tuple(sorted({caption(value) for value in range(NUM)}))
    assert len(data.held_out_set) > 0
    for images in (data.train_set, data.held_out_set):
        assert isinstance(images, ResidentImages) == resident
        indices = torch.arange(len(images)).flip(0)
        check(images.batch(indices), data.captions)
        facts = images.metadata(indices)
        assert set(facts) == {"label", "caption"}
        assert facts["caption"].tolist() == images.batch(indices)["caption"].tolist() == images.captions[indices].tolist()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("resident", [True, False])
def test_batches_bring_the_captions_along(root, resident, num_workers):
    data = make(root, resident=resident, held_out=0)
    loader = ImageLoader(ImageBatches(data.train_set), EpochOrder(NUM, 5, 0), flip=True, num_workers=num_workers)
    batches = list(loader)
    loader.close()
    assert sum(len(batch["image"]) for batch in batches) >= 20
    for batch in batches:
        check(batch, data.captions)


def test_unreadable_images_take_their_captions_with_them(root):
    (root / name(4)).write_bytes(b"no image")
    for resident in (True, False):
        data = make(root, resident=resident, held_out=0)
        assert len(data.train_set) == NUM - resident
        check(data.train_set.batch(torch.arange(len(data.train_set))), data.captions)


def test_resident_images_move_with_their_captions(root):
    images = make(root, resident=True).train_set.to(torch.device("meta"))
    assert images.captions.device.type == images.pixels.device.type == "meta"


def test_files_are_named_in_more_than_one_way(root):
    lines = (root / "metadata.jsonl").read_text(encoding="utf-8")
    decomposed = lines.replace("\\u00e9/", "e\\u0301/").replace('"a/', '"./a/').replace("\n", "\r\n\r\n")
    assert decomposed.count("e\\u0301/") == decomposed.count("./a/") == NUM // 2
    (root / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + decomposed.encode())
    data = make(root)
    check(data.train_set.batch(torch.arange(10)), data.captions)


def test_another_key_holds_the_captions(root):
    describe(root, key="caption")
    data = make(root, caption_key="caption")
    check(data.train_set.batch(torch.arange(10)), data.captions)


def test_lines_for_files_that_are_not_there_do_not_count(root):
    describe(root, json.dumps({"file_name": "gone.png", "text": "gone"}))
    assert "gone" not in make(root).captions


def test_without_the_file_there_are_no_captions(root):
    (root / "metadata.jsonl").write_text("neither read\nnor understood")
    without_key = FolderSource(str(root), 4, caption_key=None)
    (root / "metadata.jsonl").unlink()
    without_file = FolderSource(str(root), 4)
    for source in (without_key, without_file):
        assert source.captions is None
        assert set(source.train().batch(torch.arange(2))) == {"image", "label"}
    assert without_key.fingerprint() == without_file.fingerprint()
    assert DigitsSource().captions is None


def test_captions_that_nothing_wants_are_not_read(root, command):
    whole = make(root).source.fingerprint()
    data = make(root)
    data.leave_out_captions()
    assert data.captions is None
    assert set(data.train_set.batch(torch.arange(2))) == {"image", "label"}
    assert data.source.fingerprint() == whole
    describe(root, left_out=1)
    words = ["data=folder", f"data.root={root}", "data.resolution=8", "network=unet_tiny", "features=classifier", *runs.BRIEF]
    words = runs.words(*words, tiny=[*runs.TINY, "data.batch_size=4"])
    code, _, err = command("train", *words, "hydra.run.dir=out")
    assert code == 0, err
    code, _, err = command("train", *words, "conditioner=text", "hydra.run.dir=other")
    assert code == 2
    assert "metadata.jsonl gives no caption 'text' for 1 of 24 images" in err


def test_the_fingerprint_depends_on_the_captions(root):
    def fingerprint() -> str:
        return FolderSource(str(root), 4).fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    describe(root, "")
    assert fingerprint() == before
    text = (root / "metadata.jsonl").read_text()
    (root / "metadata.jsonl").write_text(text.replace("grey 23", "grey 22"))
    assert fingerprint() != before
    (root / "metadata.jsonl").unlink()
    assert fingerprint() != before


FIRST = '{"file_name": "a/0.png", "text": "again"}'
BAD = {
    "not-json": (["{'file_name': 'x.png'}"], {}, "{p}, line 25: not JSON (Expecting property name"),
    "not-utf-8": (["\udcff"], {}, "{p}, line 25: not JSON ('utf-8' codec"),
    "no-object": (["", "[1]"], {}, '{p}, line 26: need {{"file_name": "...", "text": "..."}}, got [1]'),
    "no-name": (['{"text": "a cat"}'], {}, '{p}, line 25: need {{"file_name": "...", "text": "..."}}, got the keys \'text\''),
    "twice": ([FIRST], {}, "{p}, line 25: a/0.png has a line already, line 1; need one for each image"),
    "lacking": ([], {"left_out": 3}, "{p} gives no caption 'text' for 3 of 24 images, the first of them is "),
    "blank": (['{"file_name": "a/0.png", "text": " "}'], {"left_out": 1}, "{p} gives no caption 'text' for 1 of 24 images"),
    "null": (['{"file_name": "a/0.png", "text": null}'], {"left_out": 1}, "{p} gives no caption 'text' for 1 of 24 images"),
    "number": (['{"file_name": "a/0.png", "text": 3}'], {"left_out": 1}, "{p}, line 24: need a text under 'text', got 3"),
    "key": ([], {"key": "caption"}, "{p} gives no caption 'text' for 24 of 24 images, the first of them is "),
}


@pytest.mark.parametrize(("more", "settings", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_line(root, more, settings, message):
    describe(root, **settings)
    path = root / "metadata.jsonl"
    path.write_bytes(path.read_bytes() + "\n".join(more).encode(errors="surrogateescape"))
    with pytest.raises(UserError) as caught:
        make(root).train_set.load()
    assert str(caught.value).startswith(message.format(p=path))
    assert "\n" not in str(caught.value)


def test_missing_captions_are_named_with_a_remedy(root):
    describe(root, key="caption")
    with pytest.raises(UserError) as caught:
        make(root).source.train()
    assert str(caught.value).endswith(
        "its lines have 'caption', 'score': set data.caption_key to one of them; data.caption_key=null does without captions"
    )
    names = [label for _, label in FolderSource(str(root), 4)._files]
    assert f"the first of them is {names[0]};" in str(caught.value)


def test_a_broken_file_stops_neither_samples_nor_figures_of_a_model_without_captions(tmp_path, command):
    (tmp_path / "data").mkdir()
    for value in range(12):
        Image.new("RGB", (8, 8), (20 * value, 0, 0)).save(tmp_path / "data" / f"{value}.png")
    (tmp_path / "data" / "metadata.jsonl").write_text("{")
    real = ["data=folder", f"data.root={tmp_path}/data", "data.resolution=8", "data.held_out=0.5"]
    brief = ["data.batch_size=4", "network=unet_tiny", "features=pixels", *runs.BRIEF]
    checkpoint = "checkpoint=train/checkpoints/last.ckpt"
    steps = {
        "train": ("train", *runs.words(*real, *brief)),
        "sample": ("sample", checkpoint, "num=2", "film=0", "sampler.num_steps=2"),
        "evaluate": ("evaluate", checkpoint, "num=4", "sampler.num_steps=2", *PIXELS),
        "bpd": ("evaluate", checkpoint, "metric=bpd", "num=2", "bpd_steps=2"),
        "files": ("evaluate", f"samples={tmp_path}/data", *real, *PIXELS),
        "real": ("evaluate", *real, *PIXELS),
    }
    for name, words in steps.items():
        code, _, err = command(*words, f"hydra.run.dir={name}")
        assert code == 0, err
