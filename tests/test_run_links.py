"""Links in the folder of a run: one that leads out of it is refused before anything is written."""

import os
import shutil
from pathlib import Path

import pytest

import runs
from alphabar.errors import UserError
from alphabar.runs.folders.run_links import refuse_links

LINKS = {
    "checkpoints": "../elsewhere",
    "samples": "/",
    "samples/step_0000002.png": "../../home.txt",
    "metrics.csv": "../home.txt",
    "config.yaml": "../home.txt",
    ".owner": "../home.txt",
    "curves.png": "../not-there-yet",
    "wandb": "../elsewhere",
    "wandb_id.txt": "../home.txt",
}


def contents(folder):
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink()}


@pytest.mark.parametrize("name", LINKS)
def test_a_run_folder_with_a_link_out_of_it_is_refused(command, tmp_path, name):
    shutil.copytree(runs.trained(*runs.BRIEF), "out")
    Path("home.txt").write_text("mine")
    Path("elsewhere").mkdir()
    path = Path("out", name)
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        shutil.move(path, "elsewhere")
    path.symlink_to(LINKS[name])
    before = contents(".")
    words = (
        ["resume=out", "trainer.max_steps=4"] if name != "checkpoints" else ["resume=auto", *runs.words(*runs.BRIEF, folder="out")]
    )
    code, _, err = command("train", *words)
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith(f"error: out: {name} is a link to {os.path.realpath(path)}, out of the folder; nothing is written")
    assert contents(".") == before


def test_a_folder_of_a_run_may_be_a_link_and_have_links_inside(command):
    shutil.copytree(runs.trained(*runs.BRIEF), "there")
    Path("there/wandb/run-1/logs").mkdir(parents=True)
    Path("there/wandb/latest-run").symlink_to("run-1")
    Path("there/wandb/run-1/logs/debug-core.log").symlink_to("/nowhere")  # as wandb leaves it
    Path("there/itself").symlink_to("itself")
    Path("out").symlink_to("there")
    code, _, err = command("train", "resume=out", "trainer.max_steps=4")
    assert (code, err) == (0, "")
    assert runs.checkpoint("there")["global_step"] == 4
    assert Path("out").is_symlink()


def test_a_link_in_the_place_of_the_lock_is_one_line_and_leads_nowhere(command):
    shutil.copytree(runs.trained(*runs.BRIEF), "out")
    Path("out/.owner").unlink()
    Path("out/.owner").symlink_to("checkpoints/last.ckpt")
    before = contents(".")
    code, _, err = command("train", "resume=out", "trainer.max_steps=4")
    assert (code, err) == (2, "error: cannot write out/.owner: Too many levels of symbolic links\n")
    assert contents(".") == before


def test_a_run_whose_folder_has_the_name_of_wandbs_is_looked_through(tmp_path):
    (tmp_path / "wandb/samples").mkdir(parents=True)
    (tmp_path / "wandb/samples/step_0000002.png").symlink_to("/home.txt")
    with pytest.raises(UserError, match=r"samples/step_0000002.png is a link to /home.txt, out of the folder"):
        refuse_links(tmp_path / "wandb")


def test_what_is_no_file_in_the_folder_of_a_run_is_refused(tmp_path):
    (tmp_path / "samples").mkdir()
    refuse_links(tmp_path)
    os.mkfifo(tmp_path / "samples" / "pipe.png")
    with pytest.raises(UserError, match=r"samples/pipe.png is neither a file nor a folder; nothing is written here before"):
        refuse_links(tmp_path)
