"""Where captions of the images in a folder may stand: one table or a text file each; two places and near misses are named."""

import csv
import io
import json
import os
import sys
from contextlib import suppress

import pytest
import torch
from PIL import Image

import runs
from alphabar.data.folders.captions import find_caption_files
from alphabar.data.sources.folder import Folder, FolderSource
from alphabar.errors import UserError

TEXTS = {"a.png": "a cat, red", "b/c.PNG": 'a "dog"', "b/é.png": "two\nlines"}


def image(path, value=0):
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (8, 8), value).save(path)


def write_jsonl(root, texts, key="text"):
    (root / "metadata.jsonl").write_text("\n".join(json.dumps({"file_name": name, key: text}) for name, text in texts.items()))


def write_csv(root, texts, key="text"):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["file_name", "score", key], *([name, 1, text] for name, text in texts.items())])
    (root / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + file.getvalue().encode())  # as Excel begins them


def write_parquet(root, texts, key="text"):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"score": [[1.0]] * len(texts), key: list(texts.values()), "file_name": list(texts)}
    parquet.write_table(pyarrow.table(columns), root / "metadata.parquet", row_group_size=2)


def write_texts(root, texts, key="text"):
    for name, text in texts.items():
        (root / name).with_suffix(".txt").write_text(f"\n {text} \n")


FORMS = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet, "txt": write_texts}


@pytest.fixture
def root(tmp_path):
    """A folder of three images, of grey levels 0, 1 and 2."""
    for value, name in enumerate(TEXTS):
        image(tmp_path / name, value)
    return tmp_path


def source(root, **settings):
    return FolderSource(str(root), 4, channels=1, held_out=0, **settings)


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_every_form_gives_each_image_its_caption(root, write):
    write(root, TEXTS)
    found = source(root)
    assert found.captions == tuple(sorted(TEXTS.values()))
    batch = found.train().batch(torch.arange(3))
    texts = list(TEXTS.values())
    assert [found.captions[place] for place in batch["caption"]] == [texts[value] for value in batch["image"][:, 0, 0, 0]]
    assert "not used" not in found.remarks
    assert "captions" not in found.remarks
    unused = source(root, caption_key=None)
    assert unused.captions is None
    before = found.fingerprint()
    write(root, {**TEXTS, "a.png": "another"})
    assert source(root).fingerprint() != before
    assert source(root, caption_key=None).fingerprint() == unused.fingerprint()


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_texts], ids=["csv", "parquet", "txt"])
def test_captions_that_nothing_wants_change_no_fingerprint(root, write):
    """Folders with such files had no captions in earlier versions, and what was computed from them stays valid."""
    before = source(root).fingerprint()
    write(root, TEXTS)
    found = source(root)
    found.reads_captions = False
    assert found.fingerprint() == before


@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_parquet])
def test_another_column_is_named_and_can_be_chosen(root, write):
    write(root, TEXTS, "prompt")
    with pytest.raises(UserError, match=r"gives no caption 'text' for 3 of 3 images, .*; its (lines|rows) have 'prompt'") as caught:
        source(root).train()
    assert "data.caption_key" in str(caught.value)
    assert source(root, caption_key="prompt").captions == tuple(sorted(TEXTS.values()))


@pytest.mark.parametrize(
    ("writes", "named"),
    [
        ([write_jsonl, write_csv], "metadata.jsonl and in metadata.csv"),
        ([write_csv, write_parquet], "metadata.csv and in metadata.parquet"),
        ([write_jsonl, write_texts], "metadata.jsonl and in a.txt beside an image"),
    ],
)
def test_captions_in_two_places_are_refused_if_they_are_wanted(root, writes, named):
    for write in writes:
        write(root, TEXTS)
    with pytest.raises(UserError) as caught:
        source(root).train()
    assert str(caught.value) == f"{root} has captions in {named}: need them in one place"
    unwanted = source(root)
    unwanted.reads_captions = False
    assert "caption" not in unwanted.train().batch(torch.arange(3))
    assert unwanted.fingerprint()


HEAD = b"file_name,text\na.png,x\n"
BAD = {
    "csv-empty": ("metadata.csv", b"", "metadata.csv: need the columns 'file_name' and 'text', got none"),
    "csv-names": (
        "metadata.csv",
        b"image,caption\na.png,x",
        "metadata.csv: need the columns 'file_name' and 'text', got 'image', 'caption'",
    ),
    "csv-semicolons": (
        "metadata.csv",
        b"file_name;text\na.png;x",
        "metadata.csv: need the columns 'file_name' and 'text', got 'file_name;text'",
    ),
    "csv-comma": ("metadata.csv", HEAD + b"b/c.PNG,a cat, red\n", "metadata.csv, line 3: 3 values in 2 columns; a text with"),
    "csv-twice": (
        "metadata.csv",
        HEAD + b'b/c.PNG,"a\ncat"\n./a.png,y\n',
        "metadata.csv, line 5: a.png has a line already, line 2;",
    ),
    "csv-quote": ("metadata.csv", HEAD + b'b/c.PNG,"a', "metadata.csv, line 3: not CSV ("),
    "csv-long": ("metadata.csv", HEAD + b"b/c.PNG," + b"x" * 200_000, "metadata.csv, line 3: not CSV (field larger than"),
    "csv-latin": ("metadata.csv", HEAD + b"b/c.PNG,\xe9", "metadata.csv: not in UTF-8 ('utf-8' codec"),
    "csv-columns": ("metadata.csv", b"file_name,text,text\n", "metadata.csv: two of its columns are called 'text'"),
    "csv-lacking": ("metadata.csv", HEAD, "metadata.csv gives no caption 'text' for 2 of 3 images"),
    "parquet-none": ("metadata.parquet", b"PAR1 and no more", "metadata.parquet: not a Parquet file ("),
    "txt-latin": ("a.txt", b"\xe9", "a.txt: not in UTF-8 ('utf-8' codec"),
    "txt-lacking": (
        "a.txt",
        b"x",
        ": there is no caption in a .txt file beside the image for 2 of 3 images, the first of them is b/",
    ),
    "txt-empty": (
        "a.txt",
        b" \n",
        ": there is no caption in a .txt file beside the image for 3 of 3 images, the first of them is ",
    ),
    "txt-long": ("a.txt", b"x" * (2**20 + 1), "a.txt: it has more than 1,048,576 bytes"),
    "jsonl-names": (
        "metadata.jsonl",
        b'{"image": "a.png", "caption": "x"}',
        'line 1: need {"file_name": "...", "text": "..."}, got the keys \'image\', \'caption\'',
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_line(root, name, content, message):
    (root / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        source(root).train()
    assert message in str(caught.value)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


PARQUET = {
    "twice": ({"file_name": ["a.png", "./a.png"], "text": ["x", "y"]}, "row 2: a.png has a row already, row 1;"),
    "no-name": ({"file_name": ["a.png", None], "text": ["x", "y"]}, "row 2: need a text under 'file_name', got None"),
    "no-text": ({"file_name": ["a.png", "b/c.PNG"], "text": [None, "y"]}, "gives no caption 'text' for 2 of 3 images"),
    "numbers": ({"file_name": ["a.png"], "text": [3]}, "need a column of texts 'text', got int64"),
    "lists": ({"file_name": ["a.png"], "text": [["x"]]}, "need a column of texts 'text', got list<"),
    "names": ({"image": ["a.png"], "text": ["x"]}, "need the columns 'file_name' and 'text', got 'image', 'text'"),
    "many": (
        {"file_name": [f"{index}.png" for index in range(20)], "text": [f"{index}" * 2**19 for index in range(10, 30)]},
        "promises 2",
    ),
}


@pytest.mark.parametrize(("columns", "message"), PARQUET.values(), ids=PARQUET)
def test_a_bad_parquet_file_is_one_line(root, columns, message):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), root / "metadata.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(UserError) as caught:
        source(root).train()
    assert f"{root}/metadata.parquet" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_parquet_file_is_one_line(root):
    write_parquet(root, TEXTS)
    whole = (root / "metadata.parquet").read_bytes()
    for place in range(4, len(whole) - 8, 31):
        (root / "metadata.parquet").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with suppress(UserError):  # which is one line, as those above; no other error is
            source(root).train()


def test_without_pyarrow_a_line_says_what_to_install(root, monkeypatch):
    write_parquet(root, TEXTS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"metadata.parquet needs pyarrow: pip install 'alphabar\[huggingface\]'"):
        source(root).train()


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.parquet", "a.txt"])
def test_what_is_no_file_is_not_waited_for(root, name):
    os.mkfifo(root / name)
    with pytest.raises(UserError, match=rf"^cannot read .*/{name}: it is a named pipe, not a file$"):
        source(root).train()
    (root / name).unlink()
    (root / name).symlink_to(name)
    with pytest.raises(UserError, match=rf"^cannot read .*/{name}: "):
        source(root).train()


NEAR = ["metadata.json", "captions.txt", "Captions.CSV", "labels.csv", "b/metadata.jsonl", "a.caption"]


@pytest.mark.parametrize("name", NEAR)
def test_near_misses_are_named(root, name):
    (root / name).write_text("")
    remark = Folder(str(root), 4, batch_size=1).remarks["captions"]
    assert remark.startswith(
        f"{name} is not read, captions may be in metadata.jsonl, metadata.csv or metadata.parquet in the folder"
    )
    assert source(root).captions is None
    (root / "notes.txt").write_text("")
    assert "notes" not in source(root).remarks["captions"]
    write_jsonl(root, TEXTS)
    assert "captions" not in source(root).remarks
    assert source(root).remarks["not used"]


def test_the_error_about_no_captions_names_near_misses(root, command):
    (root / "captions.csv").write_text("")
    words = runs.words("data=folder", f"data.root={root}", "conditioner=text", "hydra.run.dir=out")
    code, _, err = command("train", *words)
    assert code == 2
    assert (
        "needs images with captions, and these data have none: captions.csv is not read, captions may be in metadata.jsonl" in err
    )


def test_equal_captions_of_a_parquet_file_take_memory_once(root):
    write_parquet(root, dict.fromkeys(TEXTS, "a cat"))
    texts = find_caption_files(root, list(TEXTS), []).read(list(TEXTS), "text")
    assert texts == ["a cat"] * 3
    assert texts[0] is texts[2]  # though they are of two row groups
