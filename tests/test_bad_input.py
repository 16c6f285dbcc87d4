"""Bad input: one clear line and exit code 2, no traceback, and no folder left behind."""

import importlib
import sys

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

import bad_input
import runs


@pytest.fixture
def error_line(monkeypatch, tmp_path, capsys):
    """Runs a command in this process, away from the repository; gives its complaint, which must be the only one."""
    monkeypatch.chdir(tmp_path)

    def tell(script, *words):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *words])
        with pytest.raises(SystemExit) as end:
            importlib.import_module(script).main()
        lines = capsys.readouterr().err.splitlines(keepends=True)
        complaint = "".join(line for line in lines if not line.startswith("classifier features: "))
        assert end.value.code == 2, complaint
        assert complaint.startswith("error: ")
        assert complaint.count("\n") == 1, complaint
        left = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file() and "cache" not in path.parts]
        assert left == []
        return complaint

    return tell


@pytest.fixture(scope="module")
def trained():
    return runs.trained(*runs.BRIEF) / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def inputs(trained, tmp_path_factory):
    """A folder with the files that the tables of bad input name."""
    folder = tmp_path_factory.mktemp("inputs")
    bad_input.write_inputs(folder, trained)
    return folder


def content(folder):
    """{path: (size, time of the last change)} of everything below a folder, without the caches."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if "cache" not in path.parts}


SHORT = (f"features.cache_dir={runs.CACHE}", "features.max_images=200")
CASES = [
    *(("train", words, [line], ()) for words, line in bad_input.COMMAND_LINES),
    *(("train", words, texts, ("logger=csv",)) for words, texts in bad_input.TRAINING),
    *(("sample", words, texts, ()) for words, texts in bad_input.SAMPLING),
    *(
        ("evaluate", words, texts, () if {"compare", "report", "features=none", "metric=bpd"} & {*words} else SHORT)
        for words, texts in bad_input.EVALUATION
    ),
]


@pytest.mark.parametrize(
    ("script", "words", "texts", "others"),
    CASES,
    ids=[f"{script} {' '.join(words)}".replace("/", "_")[:90] for script, words, *_ in CASES],
)
def test_bad_input_is_one_line_and_changes_nothing_on_the_disk(error_line, monkeypatch, inputs, script, words, texts, others):
    monkeypatch.chdir(inputs)
    before = content(inputs)
    complaint = error_line(script, *words, *others)
    for text in texts:
        assert text in complaint
    assert content(inputs) == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["callbacks.fid.num=2"], "callbacks.fid.num=2: there is no key callbacks.fid.num"),
        (["+callbacks.fid.num=2"], "+callbacks.fid.num=2: nothing takes a key callbacks.fid.num"),
        (["callbacks.held_out_loss.nun=2"], "callbacks.held_out_loss.nun=2: there is no key callbacks.held_out_loss.nun. Did you mean callbacks.held_out_loss.num?"),
        (["callbacks.held_out_loss.num=two"], "callbacks.held_out_loss.num: expected int, got 'two'"),
        (["seed=3"], "seed: cannot change when a run is resumed"),
        (["schedule=cosine"], "schedule: cannot change when a run is resumed"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_changes_of_a_resumed_run_are_judged_against_its_own_configuration(error_line, trained, words, line):
    assert line in error_line("train", f"resume='{trained.parents[1]}'", *words)


def test_a_key_that_only_the_resumed_run_has_can_change(command):
    monitor = "+callbacks.lr={_target_:lightning.pytorch.callbacks.LearningRateMonitor,logging_interval:step}"
    begin = runs.words(*runs.BRIEF, monitor, folder="out")
    assert command("train", *begin)[::2] == (0, "")
    code, _, err = command("train", "resume=out", "callbacks.lr.logging_interval=epoch", "trainer.max_steps=3e0")
    assert (code, err) == (0, "")
    config = OmegaConf.load("out/config.yaml")
    assert (config.callbacks.lr.logging_interval, config.trainer.max_steps) == ("epoch", 3)


@pytest.mark.parametrize("content", ["empty", "text"])
def test_training_refuses_a_folder_without_images(error_line, tmp_path, content):
    (tmp_path / "photos").mkdir()
    if content == "text":
        (tmp_path / "photos" / "notes.txt").write_text("no image")
    complaint = error_line("train", *runs.words("data=folder", "data.root=photos", tiny=()))
    assert "photos" in complaint
    assert ".png" in complaint


def test_strict_folders_refuse_what_cannot_be_read(error_line, tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(8):
        Image.new("RGB", (9, 9), (index, 0, 0)).save(tmp_path / "photos" / f"{index}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG not at all")
    words = ("data=folder", "data.root=photos", "data.resolution=8", "data.strict=true", "data.batch_size=2")
    assert "broken.png" in error_line("train", *runs.words(*words, tiny=()))


def test_a_checkpoint_that_would_execute_something_is_refused_unread(error_line, tmp_path):
    class Payload:
        def __reduce__(self):
            return (exec, ("open('hacked', 'w')",))

    torch.save({"state_dict": Payload()}, tmp_path / "payload.ckpt")
    assert "payload.ckpt: cannot be read" in error_line("sample", "checkpoint=payload.ckpt")
    assert not (tmp_path / "hacked").exists()


def test_a_folder_with_something_in_it_is_not_written_into(error_line, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "is not empty" in error_line("train", *runs.words(folder=tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
