"""A folder of pictures with captions, and tiny models that are trained on it."""

import importlib
import json
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from hydra.core.global_hydra import GlobalHydra
from PIL import Image, ImageDraw

import runs
import tiny_texts
from alphabar.cli.command import execute
from alphabar.cli.composition.hydra_app import App

SIDE = 16
# What the tokenizer of tiny_texts knows, and how it looks.
SHAPES = {"cat": [(2, 2, 13, 13)], "dog": [(2, 2, 6, 13), (9, 2, 13, 13)], "heart": [(5, 5, 10, 10)]}
COLOURS = {"red": (230, 20, 20), "a": (20, 60, 230), "and": (20, 170, 40), "": (10, 10, 10)}


class Trained(NamedTuple):
    """A tiny CLIP: the folder of its run, the folder of the pictures, and the overrides (`words`) that name its text encoder."""

    run: Path
    folder: Path
    words: list[str]


def pictures(folder: Path, num: int = 96) -> Path:
    """Pictures of one of twelve captions each, such as "red cat", a little different from each other."""
    lines = []
    captions = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    for index in range(num):
        colour, shape = captions[index % len(captions)]
        image = Image.new("RGB", (SIDE, SIDE), (255, 255, 255 - index))
        for box in SHAPES[shape]:
            ImageDraw.Draw(image).rectangle([edge + index % 2 for edge in box], fill=COLOURS[colour])
        path = folder / ("animals", "things")[shape == "heart"] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        lines.append(json.dumps({"file_name": str(path.relative_to(folder)), "text": f"{colour} {shape}".strip()}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def call(script: str, *words: str, code: int = 0) -> int:
    """A command in this process; fails unless it ends with `code`."""
    GlobalHydra.instance().clear()
    with mock.patch.object(sys, "argv", [f"{script}.py", *words]):
        found = execute(importlib.import_module(script).main.__wrapped__, App(runs.ROOT / "conf", script))
    assert found == code
    return found


def make(folder: Path) -> None:
    """Fills a folder with pictures and a text encoder."""
    pictures(folder / "pictures")
    tiny_texts.make("t5", folder / "encoder")  # unlike BERT, it separates texts without training


def contrastive(*more: str) -> Trained:
    """A CLIP trained for 120 steps on the pictures, once for all tests of a session."""
    files = runs.shared("pictured", make)
    name = [f"module.towers.encoder.{word}" for word in (f"name={files / 'encoder'}", "max_length=9")]
    words = ["logger=csv", *name, f"module.cache_dir={runs.CACHE}/pictured-cache"]
    settings = ["optimizer.lr=3e-3", "data.held_out=0.25", "trainer.max_steps=120", "callbacks.retrieval.every_n_steps=40"]
    here = ["experiment=smoke/contrastive", f"data.root={files / 'pictures'}", "trainer.log_every_n_steps=20"]
    return Trained(runs.finished("train.py", *words, *here, *settings, *more), files / "pictures", words)
