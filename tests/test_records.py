"""`receipt.json`: what every command leaves of its command line, its configuration, its code and its machine."""

import json
import shlex
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import alphabar
import runs
from alphabar.errors import UserError
from alphabar.evaluation.receipt import read_receipt
from alphabar.files.paths import starting_in
from alphabar.runs.provenance import source_code
from alphabar.runs.provenance.current_command import carrying_out, command_config, command_text
from alphabar.runs.provenance.masking import masked_code, masked_config, masked_word
from alphabar.runs.provenance.receipt import FILE_NAME, describe_start, read_starts, recorded, write_content

KEY = "0123456789abcdef0123456789abcdef01234567"
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (f"logger.wandb.api_key={KEY}", "logger.wandb.api_key=***"),
        (f"+hf_token={KEY},x", "+hf_token=***"),
        ("++a.Password=null", "++a.Password=null"),
        (f"+logger={{name:a,api_key:{KEY}}}", "+logger={name:a,api_key:***}"),
        ('+logger={"secret": "a b", x: 1}', '+logger={"secret": ***, x: 1}'),
        ("data.root=https://me:word@host/x", "data.root=https://***@host/x"),
        (f"prompt=hf_{KEY}", "prompt=***"),
        ("conditioning.tokens=7", "conditioning.tokens=7"),
        ("prompt=a red heart: 3", "prompt=a red heart: 3"),
    ],
)
def test_secrets_on_a_command_line_are_masked(word, expected):
    assert masked_word(word) == expected
    key, _, value = word.partition("=")
    key = key.lstrip("+")
    if expected.endswith("=***"):
        assert masked_config({"a": [{key: value}], "seed": 1}) == {"a": [{key: "***"}], "seed": 1}


def test_changes_of_code_are_masked_only_where_they_hold_secrets():
    code = f'+def f(token: str, secret=secrets) -> None:\n+    api_key = "{KEY}"\n+    password: null\n'
    assert masked_code(code) == code.replace(f'"{KEY}"', "***")


def test_the_command_is_stated_as_it_is_typed_and_nothing_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_VALUE", "out of the environment")
    monkeypatch.chdir(tmp_path)
    assert command_text() is None
    assert command_config() is None
    config = OmegaConf.create({"a": "${oc.env:MY_VALUE}", "b": ["${a}"], "c": {"token": "x"}, "d": "${n}", "n": 1})
    with carrying_out(["sample.py", "prompt=a red heart", f"+api_key={KEY}", "a=${oc.env:MY_VALUE}"], config):
        assert command_text() == "python sample.py 'prompt=a red heart' '+api_key=***' 'a=${oc.env:MY_VALUE}'"
        kept = "${oc.env:MY_VALUE}"
        assert command_config() == {"a": kept, "b": [kept], "c": {"token": "***"}, "d": 1, "n": 1}
    monkeypatch.setenv("NUM", "64")
    config = OmegaConf.create({"num": "${oc.env:NUM}", "batch_size": 64, "more": [64, "${oc.env:NUM}"], "size": "${num}"})
    with carrying_out(["sample.py"], config):
        kept = "${oc.env:NUM}"
        assert command_config() == {"num": kept, "batch_size": 64, "more": [64, kept], "size": "64"}
    config = OmegaConf.create({"a": "${oc.env:MY_VALUE}", "b": ["${a}"], "c": {"token": "x"}, "d": "${n}", "n": 1})
    with carrying_out([str(tmp_path / "train.py")], config):
        assert command_text() == "python train.py"
    (tmp_path / "out").mkdir()
    monkeypatch.chdir("out")
    with starting_in(tmp_path), carrying_out(["sample.py"], config):  # hydra.job.chdir=true
        assert command_text() == "python sample.py"
    with carrying_out(["-m", "mine"][1:], config):
        assert command_text() == "python -m mine"
    assert command_text() is None


def git(folder, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_changes_of_a_checkout_lead_from_its_commit_to_the_code_that_ran(tmp_path, monkeypatch):
    home, package = tmp_path / "home", tmp_path / "home" / "src" / "alphabar"
    put(home / "pyproject.toml", '[project]\nname = "alphabar"\n')
    put(package / "__init__.py", "old\n")
    put(home / "private.txt", "mine\n")
    git(tmp_path, "init", "-q", "home")
    git(home, "add", ".")
    git(home, "commit", "-qm", "first")
    monkeypatch.setattr(alphabar, "__file__", str(package / "__init__.py"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    look = source_code.source_code.__wrapped__
    clean = look()
    assert (len(clean.commit), clean.changes, clean.revision) == (40, "", clean.commit)
    put(package / "__init__.py", "new\n")
    put(home / "conf" / "schedule" / "mine.yaml", "beta: 1\n")
    put(home / "private.txt", "changed\n")
    put(home / "notes" / "x.py", "private\n")
    changed = look()
    assert changed.revision == f"{clean.commit}+changes"
    assert "private" not in changed.changes
    monkeypatch.delenv("GIT_DIR")
    git(tmp_path, "clone", "-q", "home", "again")
    put(tmp_path / "code.diff", changed.changes)
    git(tmp_path / "again", "apply", str(tmp_path / "code.diff"))
    assert (tmp_path / "again" / "src" / "alphabar" / "__init__.py").read_text() == "new\n"
    assert (tmp_path / "again" / "conf" / "schedule" / "mine.yaml").read_text() == "beta: 1\n"
    monkeypatch.setattr(source_code, "MAX_DIFF", 100)
    assert len(look().changes) < 200
    assert "[cut: the whole has" in look().changes
    shutil.copytree(package, home / "venv" / "alphabar")  # installed in a checkout of something else
    monkeypatch.setattr(alphabar, "__file__", str(home / "venv" / "alphabar" / "__init__.py"))
    assert look() is None


def test_changes_are_written_once_for_each_version_of_the_code(tmp_path, monkeypatch):
    names = []
    for changes in ("a", "b", "a", ""):
        monkeypatch.setattr(source_code, "source_code", lambda changes=changes: source_code.SourceCode("0" * 40, changes))
        names.append(source_code.write_changes(tmp_path))
    assert names == ["code.diff", "code_2.diff", "code.diff", None]
    assert (tmp_path / "code_2.diff").read_text() == "b"


def test_a_start_is_there_from_its_beginning_and_says_how_it_ended(tmp_path, caplog):
    for error, state in ((None, "finished"), (KeyboardInterrupt(), "stopped"), (OSError("x"), "failed")):
        with nullcontext() if error is None else pytest.raises(type(error)):
            with recorded(tmp_path, describe_start(tmp_path, CPU, 1, {"seed": 3})) as start:
                assert read_starts(tmp_path)[-1]["state"] == "running"
                start["result"] = float("nan")
                if error is not None:
                    raise error
        last = read_starts(tmp_path)[-1]
        assert (last["state"], last["seed"], last["result"], last["num_devices"]) == (state, 3, None, 1)
        assert last["begin"] <= last["end"]
        assert last["versions"]["alphabar"] == alphabar.__version__
        assert last["machine"]["cores"] >= 1
    starts = read_starts(tmp_path)
    write_content(tmp_path / FILE_NAME, {"starts": [*starts[:2], starts[2] | {"state": "running"}]})  # and killed
    with recorded(tmp_path, {"state": "running"}):
        pass
    assert [start["state"] for start in read_starts(tmp_path)] == ["finished", "stopped", "interrupted", "finished"]
    text = (tmp_path / FILE_NAME).read_text().replace("stopped", "finished")
    (tmp_path / FILE_NAME).write_text(text)
    with recorded(tmp_path, {"state": "running"}):
        pass
    assert len(read_starts(tmp_path)) == 1
    assert (tmp_path / "receipt_unreadable.json").read_text() == text  # not lost
    assert "was edited after it was written" in caplog.text


def test_a_folder_that_is_taken_back_has_no_record(tmp_path):
    def refused():
        with recorded(tmp_path, {"state": "running"}):
            (tmp_path / FILE_NAME).unlink()
            raise UserError("bad input")

    with pytest.raises(UserError, match="bad input"):
        refused()
    assert list(tmp_path.iterdir()) == []


def test_a_run_has_an_entry_for_each_start(command):
    shutil.copytree(runs.trained(*runs.BRIEF), "out")
    code, _, err = command("train", "resume=out", "trainer.max_steps=4", "stall_seconds=700")
    assert (code, err) == (0, "")
    first, second = read_starts(Path("out"))
    assert "trainer.max_steps=2" in shlex.split(first["command"])
    assert second["command"] == "python train.py resume=out trainer.max_steps=4 stall_seconds=700"
    assert [start["state"] for start in (first, second)] == ["finished", "finished"]
    assert [start["step"] for start in (first, second)] == [2, 4]
    assert second["changes"] == {"trainer.max_steps": [2, 4], "stall_seconds": [600, 700]}
    assert second["from"] == {**first["checkpoints"][0], "step": 2}
    assert first["checkpoints"][0]["checkpoint"] == "checkpoints/last.ckpt"
    assert first["sampler"]["num_steps"] == 3
    assert (first["seed"], first["config"], len(first["data"])) == (0, "config.yaml", 32)
    assert first["data"] == second["data"]


def test_samples_have_a_record(command):
    checkpoint = runs.trained(*runs.BRIEF) / "checkpoints" / "last.ckpt"
    code, _, err = command("sample", f"checkpoint={checkpoint}", "num=2", "film=0", "sampler.num_steps=2", "hydra.run.dir=my out")
    assert (code, err) == (0, "")
    (start,) = read_starts(Path("my out"))
    assert start["command"] == f"python sample.py checkpoint={checkpoint} num=2 film=0 sampler.num_steps=2 'hydra.run.dir=my out'"
    assert start["checkpoints"] == [{"checkpoint": str(checkpoint), "sha256": start["checkpoints"][0]["sha256"], "step": 2}]
    assert start["checkpoints"][0]["sha256"] == read_starts(checkpoint.parents[1])[0]["checkpoints"][0]["sha256"]
    assert start["sampler"]["name"] == "DDIM"
    assert start["config"]["sampler"]["num_steps"] == 2
    assert (start["state"], start["seed"], start["result"]["num"]) == ("finished", 0, 2)
    with pytest.raises(UserError, match=r"^my out/receipt\.json: not a receipt of evaluate.py, it has no figures$"):
        read_receipt(Path("my out"))
    content = json.loads(Path("my out/receipt.json").read_text())
    assert content["format"] == "alphabar receipt 2"
