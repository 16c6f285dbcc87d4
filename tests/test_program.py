"""The program `alphabar`, from a checkout and from a wheel that is installed where there is none."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import runs
from alphabar.cli.program import MODULE, run_program
from alphabar.cli.summaries.show_record import record_command
from alphabar.files.picture_text import read_picture_text
from alphabar.runs.provenance.current_command import PROGRAM, invocation, with_invocations
from document_files import EVALUATION
from test_run_lines import lines

SOURCES = (
    "src",
    "conf",
    "train.py",
    "sample.py",
    "evaluate.py",
    "prepare.py",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
SMALL = ("trainer.max_steps=2", "callbacks.fid=null", "callbacks.film=null", "callbacks.curves=null", "report=true")


@pytest.fixture
def program(monkeypatch, shell, capsys):
    """The program in this process, in an empty folder, called by its name: (exit code, stdout, stderr)."""
    monkeypatch.setenv(PROGRAM, "")  # so that what the program sets ends with the test
    monkeypatch.delenv(PROGRAM)

    def run(*words, called="alphabar"):
        monkeypatch.setattr(sys, "argv", ["alphabar", *words])
        with pytest.raises(SystemExit) as end:
            run_program(called)
        return end.value.code or 0, *capsys.readouterr()

    return run


def install(folder):
    """Builds a wheel of the checkout with its own backend and installs it into `folder`, without a network."""
    sources = folder / "sources"
    for name in SOURCES:
        copy = shutil.copytree if (runs.ROOT / name).is_dir() else shutil.copy
        sources.mkdir(exist_ok=True)
        copy(runs.ROOT / name, sources / name)
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=sources, check=True, capture_output=True)
    shutil.rmtree(sources)
    (wheel,) = folder.glob("*.whl")
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", "--target", str(folder / "installed")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True, capture_output=True)


def test_without_words_it_lists_its_commands(program):
    for words in ([], ["--help"], ["-h"]):
        code, out, _ = program(*words)
        assert code == 0
        assert [line.split()[:2] for line in out.splitlines() if line.startswith("  ")] == [
            ["alphabar", name] for name in ("train", "sample", "evaluate", "prepare")
        ]
    assert "  python -m alphabar sample " in program(called=MODULE)[1]


def test_a_command_that_there_is_not_is_one_line(program):
    assert program("trian", "seed=1") == (2, "", "error: alphabar trian: there is no such command. Did you mean train?\n")
    assert program("x") == (2, "", "error: alphabar x: there is no such command. There are: train, sample, evaluate, prepare\n")


@pytest.mark.parametrize("name", ["train", "sample", "evaluate", "prepare"])
def test_help_and_messages_say_how_the_command_is_called(program, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = program(name, "--help")
    assert code == 0
    assert ".py" not in out
    assert f"\n  alphabar {name} " in out
    code, _, err = program(name, "seed=1,2")
    assert code == 2
    assert f"needs -m (alphabar {name} -m ...)" in err


def test_the_columns_of_a_help_text_stay_in_place(monkeypatch):
    text = "  python train.py a=1      first\n  python train.py -m b=1,2  second\n  c=3                      third; evaluate.py\n"
    assert with_invocations(text) == text
    monkeypatch.setenv(PROGRAM, "alphabar")
    expected = "  alphabar train a=1       first\n  alphabar train -m b=1,2   second\n  c=3                      third; alphabar evaluate\n"
    assert with_invocations(text) == expected


def test_scripts_of_others_are_called_as_they_are(monkeypatch, tmp_path):
    monkeypatch.setenv(PROGRAM, "bin/alphabar")
    monkeypatch.chdir(tmp_path)
    assert invocation(str(runs.ROOT / "train.py")) == ["bin/alphabar", "train"]
    assert invocation("train.py") == ["python", "train.py"]
    assert invocation(str(tmp_path / "mine.py")) == ["python", "mine.py"]


@pytest.mark.parametrize("beginning", ["alphabar sample", "python -m alphabar sample"])
def test_pictures_of_the_program_can_be_drawn_again(tmp_path, beginning):
    from test_picture_records import stranger

    for words, is_careful in (("seed=1", False), ("paths.outputs=/etc", True)):
        stranger(tmp_path / "a.png", Command=f"{beginning} {words}")
        said = record_command([str(tmp_path / "a.png")])
        assert f"  Command      {beginning} {words}" in said
        assert ("careful" in said) == is_careful
    stranger(tmp_path / "a.png", Command="/tmp/evil/alphabar sample seed=1")
    assert record_command([str(tmp_path / "a.png")]).splitlines()[-1].endswith("more than pictures: /tmp/evil/alphabar")
    stranger(tmp_path / "a.png", Command="alphabar destroy")
    assert record_command([str(tmp_path / "a.png")]).splitlines()[-1] == "  careful      this is no command of ours"


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("alphabar ", ["train", "sample", "evaluate", "prepare"]),
        ("alphabar ev", ["evaluate"]),
        ("alphabar mine ", []),
        ("alphabar train schedule=cos", ["schedule=cosine"]),
        ("alphabar evaluate metric=b", ["metric=bpd"]),
    ],
)
def test_words_are_completed(program, monkeypatch, line, completed):
    monkeypatch.setenv("COMP_LINE", line)
    code, out, _ = program("-sc", "query=bash")
    assert (code, out.split()) == (0, completed)


def test_the_shell_is_told_to_complete_the_program(program):
    assert program("train", "-sc", "install=bash")[1].endswith(" -F hydra_bash_completion alphabar\n")


def test_the_folder_of_configurations_is_relative_to_where_the_user_stands(program):
    Path("mine").mkdir()
    Path("mine", "train.yaml").write_text("x: 1\n")
    code, out, err = program("train", "--config-path=mine", "--cfg=job")
    assert code == 0, err
    assert out.startswith("x: 1\n")


def test_a_wheel_has_the_whole_command_line(shell):
    """The user stands in a folder that is not the checkout, and types what the program prints."""
    installed = runs.shared("wheel", install) / "installed"
    entry = str(installed / "bin" / "alphabar")
    env = {"PYTHONPATH": str(installed), "PATH": f"{installed / 'bin'}:{os.environ['PATH']}"}

    def alphabar(*words):
        code, out, err = runs.run(entry, *words, cwd=".", env=env)
        assert code == 0, err
        return out

    out = alphabar("train", *runs.words(*SMALL, "name=mine"))
    (folder,) = Path("outputs/train").iterdir()
    (start,) = json.loads((folder / "receipt.json").read_text())["starts"]
    assert start["command"].startswith("alphabar train ")
    assert start["code"] is None  # it is of no checkout
    assert (folder / "report.html").is_file()
    assert lines(out)["go on"] == f"alphabar train resume={folder} trainer.max_steps=4"
    line = f"{lines(out)['sample']} sampler.num_steps=2 hydra.run.dir=drawn"
    assert line.startswith(f"alphabar sample checkpoint={folder}/checkpoints/last.ckpt num=64 ")
    subprocess.run(line, shell=True, check=True, capture_output=True, env=os.environ | env)
    assert shlex.split(read_picture_text(Path("drawn/grid.png"))["Command"])[:2] == ["alphabar", "sample"]
    evaluated = alphabar("evaluate", f"checkpoint={folder}", *EVALUATION)
    assert "outputs/evaluate/" in evaluated

    out = alphabar("train", "-m", "seed=0,1", *runs.words(*SMALL, "report=false", "hydra.sweep.dir=sweep"))
    assert out.count("done: 2 steps") == 2
    assert out.count("  go on        alphabar train resume=sweep/") == 2
    assert json.loads(Path("sweep/sweep.json").read_text())["command"]["script"] == str(installed / "alphabar/scripts/train.py")
