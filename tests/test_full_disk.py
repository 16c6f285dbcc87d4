"""Disks that are full, places that vanish or cannot be written: one line that names file and reason, and nothing earlier is lost."""

import errno
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

import runs
from alphabar.cli import exit_status
from alphabar.data.sources.folder import Folder
from alphabar.errors import UserError
from alphabar.files.atomic import WriteError, atomic_writer, changed_in_place, make_folder, replaced_folder, write_text
from alphabar.sampling.image_grid import save_gif, save_png


@pytest.fixture
def limited():
    """Limits files of this process to so many bytes: the rest is refused by the system, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def save_tensors(path):
    with atomic_writer(path) as file:
        torch.save({"x": torch.rand(100_000)}, file)


@pytest.mark.parametrize(
    "write",
    [
        save_tensors,
        lambda path: write_text(path, "x" * 100_000),
        lambda path: save_png(torch.randint(256, (3, 300, 300), dtype=torch.uint8), path),
        lambda path: save_gif([torch.randint(256, (3, 300, 300), dtype=torch.uint8)] * 2, path),
    ],
    ids=["torch", "text", "png", "gif"],
)
def test_what_does_not_fit_leaves_the_old_file_and_names_it(tmp_path, limited, write):
    path = tmp_path / "file"
    write_text(path, "old")
    limited(10_000)
    with pytest.raises(WriteError) as caught:
        write(path)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert exit_status.outcome_of(caught.value).lines == (f"cannot write {path}: File too large",)
    assert exit_status.outcome_of(caught.value).code == 2
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_of_other_files_keep_their_names(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        with atomic_writer(tmp_path / "new"):
            (tmp_path / "missing").read_text()
    assert caught.value.filename == str(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path / "file", "x"),
        lambda path: save_png(torch.zeros(1, 8, 8, dtype=torch.uint8), path / "samples" / "x.png"),
        lambda path: make_folder(path / "folder"),
        lambda path: replaced_folder(path / "folder").__enter__(),
    ],
    ids=["text", "picture", "folder", "export"],
)
def test_a_folder_that_is_gone_is_not_made_anew(tmp_path, write):
    with pytest.raises(WriteError, match="its folder is gone"):
        write(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_safetensors_are_those_of_the_disk(tmp_path, limited):
    from safetensors.torch import save_file

    limited(10_000)
    with pytest.raises(WriteError, match="File too large"):
        with replaced_folder(tmp_path / "folder") as partial:
            save_file({"x": torch.rand(100_000)}, partial / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_through_a_link(tmp_path):
    home = tmp_path / "home"
    home.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("a.txt", "a.png", "a.gif", "a.ckpt", "table.csv"):
        (folder / name).symlink_to(home)
    write_text(folder / "a.txt", "new")
    save_png(torch.zeros(1, 8, 8, dtype=torch.uint8), folder / "a.png")
    save_gif([torch.zeros(1, 8, 8, dtype=torch.uint8)] * 2, folder / "a.gif")
    save_tensors(folder / "a.ckpt")
    with pytest.raises(WriteError, match="Too many levels of symbolic links"), changed_in_place(folder / "table.csv"):
        pass
    assert home.read_text() == "mine"
    assert [path.name for path in folder.iterdir() if path.is_symlink()] == ["table.csv"]


def test_a_run_whose_disk_is_full_keeps_its_checkpoint_and_goes_on_once_there_is_room(command, limited):
    begin = runs.words(*runs.BRIEF, "callbacks.checkpoints.every_n_steps=2", folder="out")
    assert command("train", *begin)[::2] == (0, "")
    old = Path("out/checkpoints/last.ckpt").read_bytes()
    files = runs.checkpoints(Path("out"))
    limited(len(old) // 2)
    code, _, err = command("train", "resume=out", "trainer.max_steps=4")
    assert (code, err.count("\n")) == (2, 1), err
    assert err == "error: cannot write out/checkpoints/.new.ckpt: File too large\n"
    assert Path("out/checkpoints/last.ckpt").read_bytes() == old
    assert runs.checkpoints(Path("out")) == files
    limited(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    code, _, err = command("train", "resume=out", "trainer.max_steps=4")
    assert (code, err) == (0, "")
    assert runs.checkpoint("out")["global_step"] == 4


@pytest.mark.parametrize("callback", ["metrics", "checkpoint"])
def test_a_run_whose_folder_is_deleted_ends_with_one_line(command, monkeypatch, callback):
    from alphabar.training.callbacks.checkpoints import Checkpoints
    from alphabar.training.loggers.metrics_file import MetricsFile

    owner, name = (MetricsFile, "log_metrics") if callback == "metrics" else (Checkpoints, "act")
    original = getattr(owner, name)

    def deleted(*args, **kwargs):
        shutil.rmtree("out", ignore_errors=True)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, deleted)
    code, _, err = command("train", *runs.words(*runs.BRIEF, "trainer.log_every_n_steps=1", folder="out"))
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith("error: cannot write out/")
    assert err.endswith(": its folder is gone\n")
    assert not Path("out").exists()


@pytest.mark.parametrize("left", ["nothing", "mount-point"])
def test_data_that_vanish_in_mid_run_are_one_line(tmp_path, left):
    root = tmp_path / "data"
    root.mkdir()
    for index in range(8):
        Image.new("L", (8, 8), index).save(root / f"{index}.png")
    images = Folder(str(root), 8, batch_size=2, channels=1, held_out=0, resident=False).train_set
    (root / "3.png").unlink()
    assert len(images.batch(torch.arange(8))["image"]) == 8  # one that is missing is skipped
    shutil.rmtree(root)
    if left == "mount-point":
        root.mkdir()
    with pytest.raises(UserError, match=rf"^there are no images in {root} any more$"):
        images.batch(torch.arange(2))


def test_a_result_that_cannot_be_handed_over_is_one_line(command, monkeypatch, tmp_path):
    monkeypatch.setenv("ALPHABAR_RESULT", str(tmp_path / "gone" / "result.json"))
    monkeypatch.setenv("ALPHABAR_ERRORS", str(tmp_path / "errors"))
    code, _, err = command("train", *runs.words(*runs.BRIEF, folder="out"))
    assert (code, err) == (2, "error: cannot write gone/result.json: its folder is gone\n")


@pytest.mark.skipif(not os.access("/proc", os.R_OK), reason="needs /proc")
def test_a_place_that_cannot_be_written_is_one_line(command):
    code, _, err = command("train", *runs.words(*runs.BRIEF, folder="/proc/alphabar"))
    assert (code, err.count("\n")) == (2, 1), err
    assert "/proc/alphabar" in err


def test_a_checkpoint_callback_of_lightning_may_write_where_it_wants(command):
    own = "+callbacks.mine={_target_:lightning.pytorch.callbacks.ModelCheckpoint,dirpath:new/deeper/still,every_n_train_steps:1}"
    code, _, err = command("train", *runs.words(*runs.BRIEF, own, folder="out"))
    assert code == 0, err
    assert list(Path("new/deeper/still").glob("*.ckpt"))
