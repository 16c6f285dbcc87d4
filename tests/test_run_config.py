"""The configuration in the folder of a run: always there, and taken from the checkpoint if it is lost."""

import os
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import runs
from alphabar.config.stored_paths import confined


def test_the_configuration_of_a_run_is_there_at_every_moment(command, monkeypatch):
    """A resumed run with changes keeps the earlier one beside it, and is never without config.yaml."""
    shutil.copytree(runs.trained(*runs.BRIEF), "out")
    old, seen = Path("out/config.yaml").read_text(), []
    original = os.replace

    def replaced(source, target):
        seen.append(Path("out/config.yaml").read_text() == old)
        return original(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    code, _, err = command("train", "resume=out", "trainer.max_steps=3")
    assert (code, err) == (0, "")
    assert seen[:3].count(True) >= 2  # the copy of the earlier one is written first
    assert Path("out/config_until_step_2.yaml").read_text() == old


DAMAGES = {
    "missing": (lambda content: None, "cannot be read (No such file or directory)"),
    "zeros": (lambda content: bytes(len(content)), "not YAML (unacceptable character #x0000"),
    "cut": (lambda content: content[: len(content) // 2], ""),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_run_goes_on_from_its_checkpoint_alone(command, kind):
    shutil.copytree(runs.trained(*runs.BRIEF), "out")
    path = Path("out/config.yaml")
    before = confined(OmegaConf.to_container(OmegaConf.load(path)))
    damage, reason = DAMAGES[kind]
    damaged = damage(path.read_bytes())
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    code, _, err = command("train", "resume=out", "trainer.max_steps=3", "callbacks.checkpoints.every_n_steps=1")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(f"out/config.yaml: {reason}")
    assert err.endswith("; the configuration in last.ckpt is used\n")
    assert runs.checkpoint("out")["global_step"] == 3
    after = OmegaConf.to_container(OmegaConf.load(path))
    assert (after["trainer"]["max_steps"], after["callbacks"]["checkpoints"]["every_n_steps"]) == (3, 1)
    assert {key for key in before if before[key] != after[key]} <= {"trainer", "callbacks", "resume", "run_dir"}
    if damaged is not None:  # nothing is lost
        assert Path("out/config.yaml.damaged").read_bytes() == damaged
    assert not list(Path("out").glob("config_until*"))


def test_a_configuration_that_is_refused_is_not_replaced_by_another(command):
    shutil.copytree(runs.trained(*runs.BRIEF), "out")
    path = Path("out/config.yaml")
    path.write_text(path.read_text().replace("seed: 0", "seed: ${oc.env:HOME}"))
    code, _, err = command("train", "resume=out", "trainer.max_steps=3")
    assert (code, err.count("\n")) == (2, 1), err
    assert "is refused" in err


def test_the_same_command_goes_on_with_a_run_that_lost_its_configuration(command):
    begin = [*runs.words(*runs.BRIEF, folder="out"), "resume=auto"]
    assert command("train", *begin)[::2] == (0, "")
    Path("out/config.yaml").unlink()
    code, _, err = command("train", *begin, "trainer.max_steps=3")
    missing = "out/config.yaml: cannot be read (No such file or directory)"
    assert (code, err) == (0, f"{missing}; the configuration in last.ckpt is used\n")
    assert runs.checkpoint("out")["global_step"] == 3
