"""Bad input: one clear line and exit code 2, no traceback, and no folder left behind."""

import importlib
import sys

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

import runs
from alphabar.cli.command import execute
from alphabar.cli.hydra_app import App


@pytest.fixture
def error_line(monkeypatch, tmp_path, capsys):
    """Runs a command in this process, away from the repository; gives its complaint, which must be the only one."""
    monkeypatch.chdir(tmp_path)

    def tell(script, *words):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *words])
        main = importlib.import_module(script).main.__wrapped__
        code = execute(main, App(runs.ROOT / "conf", script))
        lines = capsys.readouterr().err.splitlines(keepends=True)
        complaint = "".join(line for line in lines if not line.startswith("classifier features: "))
        assert code == 2, complaint
        assert complaint.startswith("error: ")
        assert complaint.count("\n") == 1, complaint
        left = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file() and "cache" not in path.parts]
        assert left == []
        return complaint

    return tell


@pytest.fixture(scope="module")
def trained():
    return runs.trained(*runs.BRIEF) / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["schedule=triangular"], ["schedule=triangular", "cosine", "linear", "scaled_linear", "sigmoid"]),
        (["schedule.beta_strt=1e-4"], ["schedule.beta_strt", "schedule.beta_start"]),
        (["+schedule.beta_strt=1e-4"], ["beta_strt", "beta_start"]),
        (["+trainer.device=4"], ["device", "devices"]),
        (["schedule.beta_end=high"], ["schedule.beta_end: expected float, got 'high'"]),
        (["schedule.beta_end=1.5"], ["schedule: need 0 < beta_start < beta_end < 1, got beta_start=0.0001, beta_end=1.5"]),
        (["schedule.beta_start=0.5"], ["got beta_start=0.5, beta_end=0.02"]),
        (["schedule.num_steps=0"], ["schedule: need num_steps >= 1, got num_steps=0"]),
        (["schedule.zero_terminal_snr=true"], ["Epsilon does not determine x", "choose one of: X, V, Velocity"]),
        (["schedule=straight"], ["Epsilon does not determine x", "choose one of: X, V, Velocity"]),
        (["schedule=straight", "parameterization=edm"], ["EDM does not determine x", "choose one of: X, V, Velocity"]),
        (["times=log_normal"], ["objective: LogNormalTimes", "undefined on the table of LinearSchedule", "times=uniform"]),
        (["method=edm", "objective=hybrid"], ["objective: ", "EDMSchedule is not one", "objective=denoising"]),
        (["objective=hybrid", "weighting=min_snr", "weighting.gamma=0"], ["weighting: need gamma > 0, got gamma=0"]),
        (["objective=vlb", "weighting=min_snr"], ["objective: need UniformWeighting with simple=False", "got MinSNR"]),
        (["timesteps=karras", "timesteps.sigma_min=0"], ["timesteps: need 0 < sigma_min < sigma_max, got sigma_min=0"]),
        (["objective=hybrid", "network=simple_unet"], ["objective: ", "2 output channels, this one has 1", "unet_tiny"]),
        (["method=improved_ddpm", "objective=denoising"], ["sampler: variance=learned", "choose posterior or beta"]),
        (["network.learned_variance=true"], ["objective: ", "choose objective=hybrid, or network.learned_variance=false"]),
        (["sampler=heun", "sampler.churn=10"], ["sampler: churn=10", "LinearSchedule is a table", "churn=0"]),
        (["method=flow", "sampler=ddpm"], ["sampler: need num_steps >= 1", "continuous time", "num_steps=null"]),
        (["method=flow", "timesteps=karras"], ["timesteps Karras", "inf", "timesteps.sigma_max"]),
        (["timesteps=file", "timesteps.path=nowhere.txt"], ["sampler: timesteps: path=nowhere.txt: no such file"]),
        (["timesteps=file"], ["timesteps.path"]),
        (["grid=karras"], ["there is no key grid. Did you mean timesteps=karras?"]),
        (["metric=bpd"], ["metric=bpd: nothing takes metric here", "schedule"]),
        (["+metric=bpd"], ["+metric=bpd: nothing takes metric here", "schedule"]),
        (["method=ddmp"], ["method=ddmp", "Did you mean ddpm?", "edm, flow, improved_ddpm, v"]),
        (["network.channel_multipliers=[1,2,2,2,2]"], ["network: ", "8", "network="]),
        (["sampler.num_steps=1001"], ["sampler: need 1 <= num_steps <= 1000, the schedule's own, got num_steps=1001"]),
        (["sampler.num_steps=0"], ["sampler: need num_steps >= 1, got num_steps=0"]),
        (["callbacks.samples.num=0"], ["callbacks.samples: need", "num=0"]),
        (["data.batch_size=798"], ["798", "797", "data.batch_size"]),
        (["trainer.accelerator=gpu"], ["gpu"]),
        (["trainer.devices=0"], ["devices"]),
        (["hydra.run.dir=/proc/no/such"], ["/proc/no"]),
        (["data=torchvision", "data.name=FashionMNIST", "data.root=nowhere"], ["nowhere", "data.download=true"]),
        (["data=torchvision", "data.name=FashionNIST", "data.root=nowhere"], ["FashionNIST", "FashionMNIST"]),
        (["data=folder", "data.root=nowhere"], ["nowhere"]),
        (["data=folder"], ["data.root"]),
        (["resume=nowhere"], ["resume=nowhere", "no such folder"]),
        (["features=inception", "features.weights=nowhere.pth"], ["features: ", "nowhere.pth"]),
    ],
    ids=lambda value: "-".join(value)[:40].replace("/", "_") if isinstance(value, list) else None,
)  # fmt: skip
def test_training_refuses(error_line, words, parts):
    complaint = error_line("train", *runs.words(*words, tiny=()))
    for part in parts:
        assert part in complaint


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


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["checkpoint=nowhere.ckpt"], ["checkpoint=nowhere.ckpt: no such file"]),
        ([], ["checkpoint"]),
        (["checkpoint=cut.ckpt"], ["checkpoint=cut.ckpt: cannot be read"]),
        (["checkpoint=text.ckpt"], ["checkpoint=text.ckpt: cannot be read"]),
        (["checkpoint=empty.ckpt"], ["checkpoint=empty.ckpt: cannot be read"]),
        (["checkpoint=other.ckpt"], ["checkpoint=other.ckpt: not a checkpoint of alphabar"]),
        (["checkpoint=foreign.ckpt"], ["os.system"]),
        (["checkpoint=good.ckpt", "num=0"], ["need num >= 1", "num=0"]),
        (["checkpoint=good.ckpt", "num=many"], ["num: expected int, got 'many'"]),
        (["checkpoint=good.ckpt", "sampler.num_steps=2000"], ["sampler: need 1 <= num_steps <= 1000"]),
        (["checkpoint=good.ckpt", "weights=best"], ["weights", "ema", "raw"]),
        (["checkpoint=good.ckpt", "sampler=ddpm_learned"], ["sampler: variance=learned", "posterior or beta"]),
        (["checkpoint=good.ckpt", "sampler=euler", "sampler.churn=5"], ["sampler: churn=5", "is a table"]),
        (["checkpoint=good.ckpt", "accelerator=gpu"], ["accelerator"]),
        (["checkpoint=good.ckpt", "sampler=eular"], ["sampler=eular", "Did you mean euler?", "ddim", "ddpm"]),
    ],
    ids=lambda value: "-".join(value)[:50].replace("/", "_") if isinstance(value, list) else None,
)  # fmt: skip
def test_sampling_refuses(error_line, trained, tmp_path, words, parts):
    good = trained.read_bytes()
    (tmp_path / "good.ckpt").write_bytes(good)
    (tmp_path / "cut.ckpt").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.ckpt").write_text("weights")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    torch.save({"model": torch.zeros(3)}, tmp_path / "other.ckpt")
    foreign = torch.load(trained, weights_only=True)
    foreign["config"]["module"]["codec"] = {"_target_": "os.system", "command": "touch hacked"}
    torch.save(foreign, tmp_path / "foreign.ckpt")
    complaint = error_line("sample", *words)
    for part in parts:
        assert part in complaint
    assert not (tmp_path / "hacked").exists()


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
