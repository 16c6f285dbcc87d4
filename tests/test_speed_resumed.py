"""A run that is resumed keeps the speed that was chosen for it, and can be given another one."""

import shutil

import pytest
import torch
from omegaconf import OmegaConf

import runs
from alphabar.speed import Speed, in_channels_last, tell_of_imitation
from alphabar.training.modules.base import align_state

IN_BFLOAT16 = Speed("bf16-mixed", channels_last=True, keep_memory=True)
QUICK = [*(word for word in runs.TINY if word != "speed=off"), *runs.BRIEF, "callbacks.held_out_loss=null"]


def train(command, *words, folder="run"):
    code, out, err = command("train", *runs.words(*words, folder=folder, tiny=QUICK))
    assert code == 0, err
    return out, err


def go_on(command, *words):
    code, out, err = command("train", *words)
    assert code == 0, err
    return out, err


def chosen(folder):
    config = OmegaConf.load(folder / "config.yaml")
    return Speed(**config.speed), config.trainer.precision


def weights(folder):
    state = runs.checkpoint(folder)["state_dict"]
    return torch.cat([state[name].flatten() for name in sorted(state) if name.startswith("denoiser.network")])


def test_a_run_keeps_the_choice_on_another_machine(gain, command, tmp_path):
    out, _ = train(command, folder="run")
    assert "speed      bf16-mixed, channels_last, compiled: no (pays on NVIDIA GPUs)\n" in out
    assert chosen(tmp_path / "run") == (IN_BFLOAT16, "bf16-mixed")
    weight = runs.checkpoint(tmp_path / "run")["state_dict"]["denoiser.network.conv_in.weight"]
    assert weight.dtype == torch.float32
    gain(0.5)
    for words in (("resume=run", "trainer.max_steps=3"), ("resume=run", "speed=off", "trainer.max_steps=4")):
        code, _, err = command("train", *words)
        assert code == 0, err
        expected = (Speed(), "32-true") if "speed=off" in words else (IN_BFLOAT16, "bf16-mixed")
        assert chosen(tmp_path / "run") == expected


def test_resume_auto_keeps_the_choice(gain, command, tmp_path):
    train(command, "resume=auto")
    gain(0.5)
    train(command, "resume=auto", "trainer.max_steps=3")
    assert chosen(tmp_path / "run") == (IN_BFLOAT16, "bf16-mixed")


def test_a_resumed_run_says_that_a_processor_imitates_bfloat16(gain, command, monkeypatch):
    train(command)
    monkeypatch.setattr("alphabar.speed.has_bfloat16_units", lambda: False)
    tell_of_imitation.cache_clear()
    code, _, err = command("train", "resume=run", "trainer.max_steps=3")
    assert code == 0
    assert "precision=bf16-mixed: this processor only imitates bfloat16" in err


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)])
def test_weights_and_moments_can_change_their_memory_format(command, tmp_path, before, after, optimizer):
    words = (f"optimizer={optimizer}", "speed=off")
    train(command, *words, "optimizer.lr=1e-3", "trainer.max_steps=12", f"speed.channels_last={before}".lower(), folder="whole")
    train(command, *words, "optimizer.lr=1e-3", "trainer.max_steps=6", f"speed.channels_last={before}".lower(), folder="run")
    halfway = weights(tmp_path / "run")
    go_on(command, "resume=run", "trainer.max_steps=12", f"speed.channels_last={after}".lower())
    whole = weights(tmp_path / "whole")
    assert (weights(tmp_path / "run") - whole).norm() < 0.05 * (whole - halfway).norm()  # mixed-up moments: 1 and more


def test_resume_auto_leaves_the_run_of_an_earlier_version_as_it_was(gain, command, tmp_path):
    train(command, "speed=off", "resume=auto")
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    del config["speed"]
    OmegaConf.save(config, tmp_path / "run" / "config.yaml")
    train(command, "resume=auto", "trainer.max_steps=3")
    assert chosen(tmp_path / "run") == (Speed(), "32-true")


def test_a_resumed_run_chooses_anew_if_it_is_told_to(gain, command, tmp_path):
    train(command, "speed=off")
    go_on(command, "resume=run", "trainer.max_steps=3", "speed=auto")
    assert chosen(tmp_path / "run") == (IN_BFLOAT16, "bf16-mixed")
    go_on(command, "resume=run", "trainer.max_steps=4", "trainer.precision=32-true")
    assert chosen(tmp_path / "run") == (IN_BFLOAT16._replace(precision="32-true"), "32-true")


@pytest.mark.parametrize("words", [("speed=auto", "trainer.precision=32-true"), ("trainer.precision=32-true", "speed=auto")])
def test_a_precision_that_is_given_holds_in_either_order(gain, command, tmp_path, words):
    train(command, "speed=off")
    go_on(command, "resume=run", "trainer.max_steps=3", *words)
    assert chosen(tmp_path / "run") == (IN_BFLOAT16._replace(precision="32-true"), "32-true")


def test_what_an_optimizer_keeps_of_all_weights_is_left_alone():
    weight = torch.nn.Parameter(in_channels_last(torch.zeros(2, 3, 3, 3)))
    optimizer = torch.optim.Adam([weight])
    optimizer.state.update({"step": 3, "means": {"all": torch.ones(2)}})
    optimizer.state[weight] = {"exp_avg": torch.arange(54.0).reshape(2, 3, 3, 3)}
    align_state(optimizer)
    assert optimizer.state["step"] == 3
    assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()
    assert optimizer.state[weight]["exp_avg"].flatten().tolist() == list(range(54))


@pytest.mark.parametrize("given", [{1: 2, "b": 3}, {"threads": "???"}, {"threads": "many"}, [1], 5, "auto"])
@pytest.mark.parametrize("resume", ["run", "auto"])
def test_a_stored_speed_that_is_none_is_one_line(gain, command, tmp_path, given, resume):
    shutil.copytree(runs.trained(*runs.BRIEF), tmp_path / "run")
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    config.speed = given
    OmegaConf.save(config, tmp_path / "run" / "config.yaml")
    words = ["resume=run"] if resume == "run" else runs.words(*runs.BRIEF, "resume=auto", folder="run")
    code, _, err = command("train", *[word for word in words if word != "speed=off"], "trainer.max_steps=3")
    assert code == 2, err
    assert "speed" in err
    assert "Traceback" not in err
