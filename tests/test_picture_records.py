"""What pictures say of themselves, and that the command in a picture draws it again."""

import os
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import alphabar
import runs
from alphabar.cli.summaries.show_record import record_command
from alphabar.errors import UserError
from alphabar.files.picture_text import MAX_LENGTH, read_picture_text
from alphabar.runs.checkpoints.checkpoint import checkpoint_hash
from alphabar.runs.provenance.picture_record import without_home
from alphabar.sampling.image_grid import save_gif, save_png

CLASSES = (*runs.BRIEF, "conditioner=class_label")
SMALL = torch.zeros(1, 4, 4, dtype=torch.uint8)


def again(command, path, folder, *more):
    """Carries out the command in a picture, into a folder."""
    python, script, *words = shlex.split(read_picture_text(Path(path))["Command"])
    assert (python, script) == ("python", "sample.py")
    code, _, err = command("sample", *words, *more, f"hydra.run.dir={folder}")
    assert (code, err) == (0, "")


def test_pictures_say_how_they_are_drawn_again(command, monkeypatch, tmp_path):
    home = tmp_path / "home" / "me"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    checkpoint = home / "model.ckpt"
    checkpoint.symlink_to(runs.trained(*CLASSES) / "checkpoints" / "last.ckpt")
    words = ("num=5", "seed=3", "labels=[4,7,1]", "sampler.num_steps=2", "film=2")
    code, _, err = command("sample", f"checkpoint={checkpoint}", *words, "hydra.run.dir=out")
    assert (code, err) == (0, "")
    text = read_picture_text(Path("out/grid.png"))
    assert (
        text["Command"] == "python sample.py checkpoint=home/me/model.ckpt num=5 seed=3 'labels=[4,7,1]' sampler.num_steps=2 film=2"
    )
    assert text["Checkpoint"] == f"home/me/model.ckpt sha256 {checkpoint_hash(str(checkpoint))} step 2"
    assert text["Sampler"].startswith("DDIM(")
    assert (text["Seed"], text["Step"], text["Weights"]) == ("3", "2", "ema")
    assert text["Software"] == f"alphabar {alphabar.__version__}"
    assert read_picture_text(Path("out/film.png")) == read_picture_text(Path("out/film.gif")) == text
    again(command, "out/grid.png", "whole")
    assert runs.pixels("out/grid.png") == runs.pixels("whole/grid.png")
    one = read_picture_text(Path("out/images/000004.png"))
    assert one["Index"] == "4"
    assert one["Command"].endswith("format=png film=0 seed=3 first=4 num=1")
    again(command, "out/images/000004.png", "alone")
    assert [path.name for path in Path("alone/images").iterdir()] == ["000004.png"]
    assert runs.pixels("out/images/000004.png") == runs.pixels("alone/images/000004.png")
    assert "".join(Path("alone/labels.json").read_text().split()) == '{"000004.png":"7"}'
    assert read_picture_text(Path("alone/images/000004.png"))["Command"] == one["Command"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = command("sample", f"checkpoint={checkpoint}", "num=1", "film=0", "sampler.num_steps=1", "hydra.run.dir=out")
    assert (code, err) == (0, "")
    assert "checkpoint=~/model.ckpt" in read_picture_text(Path("out/grid.png"))["Command"]
    assert str(home).encode() not in Path("out/grid.png").read_bytes()


@pytest.mark.parametrize(
    "words", [("task=image_to_image", "task.strengths=[0.5]"), ("task=interpolate", "task.num_frames=2"), ("task=encode",)]
)
def test_a_row_of_a_task_is_drawn_again_alone(command, words):
    checkpoint = runs.trained(*runs.BRIEF) / "checkpoints" / "last.ckpt"
    code, _, err = command("sample", f"checkpoint={checkpoint}", *words, "num=3", "sampler.num_steps=2", "hydra.run.dir=out")
    assert (code, err) == (0, "")
    for path in Path("out/images").glob("000002_*.png"):
        text = read_picture_text(path)
        assert (text["Index"], f"000002_{text['Column']}.png") == ("2", path.name)
    again(command, path, "alone")
    assert {each.name for each in Path("alone/images").iterdir()} == {each.name for each in Path("out/images").glob("000002_*.png")}
    for each in Path("alone/images").iterdir():
        (one,), (other,) = runs.pixels(each), runs.pixels(Path("out/images") / each.name)
        assert one[:2] == other[:2]
        assert max(abs(a - b) for a, b in zip(one[2], other[2], strict=True)) <= 1  # a batch of another size may move the last bit


def test_a_row_beyond_the_last_image_is_one_line(command):
    checkpoint = runs.trained(*runs.BRIEF) / "checkpoints" / "last.ckpt"
    code, _, err = command("sample", f"checkpoint={checkpoint}", "task=encode", "first=5000", "hydra.run.dir=far")
    assert (code, Path("far").exists()) == (2, False)
    assert err == "error: first=5000: need a number below 1000, as there are so many rows\n"


def test_pictures_of_training_name_the_start_and_the_step(command):
    words = runs.words("trainer.max_steps=2", "callbacks.fid=null", folder="out")
    code, _, err = command("train", *words)
    assert (code, err) == (0, "")
    for name, step in (("samples/step_0000000.png", "0"), ("samples/step_0000002.png", "2"), ("film.png", "2"), ("film.gif", "2")):
        text = read_picture_text(Path("out", name))
        assert (text["Step"], text["Seed"]) == (step, "0")
        assert text["Command"] == read_picture_text(Path("out/curves.png"))["Command"]
        assert text["Command"] == shlex.join(["python", "train.py", *(word for word in words if "hydra.run.dir" not in word)])
        assert text["Sampler"].startswith("DDIM(")


def test_text_survives_the_way_in_and_out_as_printable_lines(tmp_path):
    text = {
        "Software": "alphabar",
        "Command": "python sample.py 'prompt=ein Übermaß ☃'",
        "Sampler": "a\x1b[2J\nb\udc80",
        "Seed": "x" * 9000,
    }
    save_png(SMALL, tmp_path / "a.png", text)
    save_gif([SMALL, SMALL + 9], tmp_path / "a.gif", text=text)
    for name in ("a.png", "a.gif"):
        found = read_picture_text(tmp_path / name)
        assert found["Command"] == text["Command"]
        assert found["Sampler"] == r"a\x1b[2J\nb\udc80"
        assert found["Seed"] == "x" * MAX_LENGTH + "... (cut)"
    save_png(SMALL, tmp_path / "b.png")
    assert read_picture_text(tmp_path / "b.png") == {}


def stranger(path, **text):
    info = PngInfo()
    for key, value in {"Software": "alphabar 9", **text}.items():
        info.add_text(key, value, zip=True)
    Image.new("L", (4, 4)).save(path, pnginfo=info)


def test_the_command_in_a_picture_of_others_is_shown_so_that_a_shell_takes_it_for_words(tmp_path):
    path = tmp_path / "a.png"
    stranger(
        path, Command="python sample.py checkpoint=a.ckpt prompt=$(id) ; rm x", Other="\x1b[2Jy", Seed="\x1b]0;y\x07" + "z" * 20000
    )
    lines = record_command([str(path)]).splitlines()
    assert "  Command      python sample.py checkpoint=a.ckpt 'prompt=$(id)' ';' rm x" in lines
    assert not any("\x1b" in line or len(line) > MAX_LENGTH + 100 or "Other" in line for line in lines)
    for word in ("+a._target_=os.system", "hydra.searchpath=[/tmp]", "paths.outputs=/etc"):
        stranger(path, Command=f"python sample.py checkpoint=a.ckpt {word}")
        assert record_command([str(path)]).splitlines()[-1].endswith(f"more than pictures: {shlex.quote(word)}")
    stranger(path, Command="python /tmp/evil/sample.py checkpoint=a.ckpt")
    assert record_command([str(path)]).splitlines()[-1].endswith("more than pictures: /tmp/evil/sample.py")
    for text in ("python -c x", "curl x | sh", "python 'sample.py", ""):
        stranger(path, Command=text)
        assert record_command([str(path)]).splitlines()[-1] == "  careful      this is no command of ours"
    stranger(path, Command="python sample.py checkpoint=a.ckpt seed=1")
    assert "careful" not in record_command([str(path)])


def test_pictures_that_say_nothing_are_one_line(tmp_path):
    save_png(SMALL, tmp_path / "plain.png")
    Image.new("L", (4, 4)).save(tmp_path / "a.jpg")
    (tmp_path / "text.png").write_text("no picture")
    bomb = PngInfo()
    bomb.add_text("Command", "x" * 3_000_000, zip=True)
    Image.new("L", (4, 4)).save(tmp_path / "bomb.png", pnginfo=bomb)
    os.mkfifo(tmp_path / "pipe.png")
    for name, part in {
        "plain.png": "it says nothing of what drew it",
        "a.jpg": "is a JPEG, need a PNG or a GIF",
        "text.png": "it cannot be read as a picture",
        "bomb.png": "it cannot be read as a picture",
        "pipe.png": "it cannot be read as a picture",
        "gone.png": "No such file",
    }.items():
        with pytest.raises(UserError, match=part) as caught:
            record_command([str(tmp_path / name)])
        assert "\n" not in str(caught.value)


def test_a_user_without_a_home_has_pictures_too(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a number of a user that the system does not know
    assert without_home("/somewhere/a.ckpt") == "/somewhere/a.ckpt"


def test_a_folder_shows_what_was_done_in_it():
    folder = runs.trained(*runs.BRIEF)
    lines = record_command([str(folder)]).splitlines()
    assert lines[0] == str(folder)
    assert lines[1] == "  state        finished"
    assert any(line.startswith("  command      python ") and "trainer.max_steps=2" in line for line in lines)
