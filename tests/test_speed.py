"""The group `speed`: what is chosen for a machine, that a run keeps it, and what each choice promises."""

import json
import os
import subprocess
import sys

import pytest
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from omegaconf import OmegaConf
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

import alphabar
import runs
from alphabar import cores, speed
from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.parameterizations import Epsilon
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.samplers.inversion import encode
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.metrics.extractor import TF32_SETTINGS
from alphabar.models.codecs.pixels import Pixels
from alphabar.models.networks.lora import LoRA
from alphabar.models.networks.unet import UNet
from alphabar.sampling.inference import Inference
from alphabar.sampling.sampling_job import SamplingJob
from alphabar.speed import Speed, fastest
from alphabar.training.speed import describe_speed

CPU, GPU = torch.device("cpu"), torch.device("cuda")
IN_BFLOAT16 = Speed("bf16-mixed", channels_last=True, keep_memory=True)
IN_FLOAT32 = IN_BFLOAT16._replace(precision="32-true")
QUICK = [*(word for word in runs.TINY if word != "speed=off"), *runs.BRIEF, "callbacks.held_out_loss=null"]
SAMPLE = ("num=4", "sampler.num_steps=3", "film=0")


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: name)


def train(command, *words, folder="run"):
    code, out, err = command("train", *runs.words(*words, folder=folder, tiny=QUICK))
    assert code == 0, err
    return out, err


def chosen(folder):
    config = OmegaConf.load(folder / "config.yaml")
    return Speed(**config.speed), config.trainer.precision


def test_a_processor_takes_bfloat16_only_if_it_is_faster_there(gain, monkeypatch):
    assert fastest(CPU) == IN_BFLOAT16
    gain(1.1)
    assert fastest(CPU) == IN_FLOAT32
    assert fastest(CPU, num_processes=2) == IN_BFLOAT16  # which do not measure, each for itself
    monkeypatch.setattr(speed, "has_bfloat16_units", lambda: False)
    monkeypatch.setattr(speed, "bfloat16_gain", lambda: pytest.fail("an imitation of bfloat16 is not tried"))
    assert fastest(CPU) == IN_FLOAT32
    assert fastest(CPU, given={"precision": "bf16-mixed"}) == IN_BFLOAT16


@pytest.mark.parametrize(
    ("visible", "taken", "threads"), [(4, 0.3, 4), (4, 0.6, 3), (4, 3.8, 1), (4, 9.0, 1), (64, 30.0, 4), (64, 61.0, 3)]
)
def test_threads_leave_the_cores_alone_that_other_programs_use(gain, monkeypatch, caplog, visible, taken, threads):
    for name in cores.THREADS_GIVEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cores, "default_threads", lambda: 4)
    monkeypatch.setattr(speed, "default_threads", lambda: 4)
    monkeypatch.setattr(cores, "allowed_cores", lambda: 4)
    for module in (cores, speed):
        monkeypatch.setattr(module, "visible_cores", lambda: visible)
    monkeypatch.setattr(cores, "cores_in_use", lambda: taken)
    assert fastest(CPU, given={"threads": 2}).threads == 2
    assert not caplog.text
    assert fastest(CPU).threads == threads
    said = (
        f"other programs take {taken} of {visible} cores, or they are limited to fewer: {threads} of 4 threads; OMP_NUM_THREADS=4"
    )
    assert (said in caplog.text) == (threads < 4)
    assert fastest(CPU, num_processes=2).threads == 0
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert fastest(CPU).threads == 0


@pytest.mark.parametrize(
    ("limit", "allowed"), [("max 100000", 8), ("250000 100000", 3), ("1600000 100000", 8), ("odd", 8), (None, 8)]
)
def test_a_container_limits_the_cores(monkeypatch, tmp_path, limit, allowed):
    monkeypatch.setattr(cores, "own_cores", lambda: set(range(8)))
    monkeypatch.setattr(cores, "CGROUP_LIMIT", tmp_path / "cpu.max")
    if limit is not None:
        cores.CGROUP_LIMIT.write_text(limit + "\n")
    assert cores.allowed_cores() == allowed


def test_what_runs_on_other_cores_or_at_low_priority_takes_none(monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "own_cores", lambda: {1, 2})
    monkeypatch.setattr(cores, "CPU_TIMES", tmp_path / "stat")
    assert cores.cores_in_use(0) == 0  # a system that does not say
    lines = ["cpu 9 9 9 9 9 9 9 9 0 0", "cpu0 7 7 7 7 7 7 7 7 0 0", "cpu1 100 50 20 900 9 1 2 3 0 0", "cpu2 10 0 0 1 0 0 0 0 0 0"]
    cores.CPU_TIMES.write_text("\n".join([*lines, "intr 5"]))
    assert cores.busy_seconds() == pytest.approx(136 / os.sysconf("SC_CLK_TCK"))


def test_threads_are_set_unless_the_user_has_set_them(monkeypatch):
    now = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda num: now.__setitem__(0, num))
    monkeypatch.setattr(cores, "allowed_cores", lambda: 4)
    monkeypatch.setattr(cores, "THREADS", {"default": 0, "ours": 0})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    speed.prepare(nn.Identity(), Speed(threads=2))
    assert now == [8]
    for name in cores.THREADS_GIVEN:
        monkeypatch.delenv(name, raising=False)
    for threads, used in ((0, 8), (2, 2), (9, 4), (0, 8)):
        speed.prepare(nn.Identity(), Speed(threads=threads))
        assert now == [used]
    now[0] = 3  # somebody else's choice
    for threads, used in ((0, 3), (1, 1), (0, 3)):
        speed.prepare(nn.Identity(), Speed(threads=threads))
        assert now == [used]


RESIDENT = """
import os, sys, torch
from pathlib import Path
from alphabar.allocator import keep_freed_memory

assert sys.argv[1] == "given back" or keep_freed_memory()
torch.ones(2**26).sum()  # 256 MB, and freed
print(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the allocator cannot be told")
def test_freed_memory_stays_with_the_process():
    def resident(memory):
        return int(subprocess.run([sys.executable, "-c", RESIDENT, memory], capture_output=True, text=True, check=True).stdout)

    assert resident("kept") > resident("given back") + 2**27


@pytest.mark.parametrize(
    ("num_calls", "compiled"), [(speed.WORTH_COMPILING - 1, False), (speed.WORTH_COMPILING, True), (None, True)]
)
def test_a_gpu_compiles_what_runs_long_enough(gpu, num_calls, compiled):
    assert fastest(GPU, 1, num_calls) == Speed("bf16-mixed", channels_last=True, compile=compiled, tf32=True)


def test_a_gpu_without_bfloat16_or_triton_does_without(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    assert fastest(GPU) == Speed()
    assert fastest(torch.device("mps")) == Speed()


def test_the_line_says_what_is_used_and_why_it_is_not_compiled(gpu):
    assert describe_speed(Speed(), CPU, 100) == "32-true"
    assert describe_speed(IN_BFLOAT16, CPU, 100) == "bf16-mixed, channels_last, compiled: no (pays on NVIDIA GPUs)"
    assert describe_speed(IN_BFLOAT16, GPU, 100) == "bf16-mixed, channels_last, compiled: no (pays from 6,000 steps)"
    assert describe_speed(IN_BFLOAT16, GPU, None) == "bf16-mixed, channels_last, compiled: no"  # the user's choice
    assert describe_speed(Speed("bf16-mixed", True, True, True), GPU, None) == "bf16-mixed, channels_last, TF32, compiled"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trainer.precision=32-true"], IN_FLOAT32),
        (["speed.precision=32-true"], IN_FLOAT32),
        (["speed.channels_last=false"], IN_BFLOAT16._replace(channels_last=False)),
        (["speed=off"], Speed()),
        (["speed=off", "trainer.precision=bf16-mixed"], Speed("bf16-mixed")),
    ],
)
def test_what_is_said_on_the_command_line_is_left_alone(gain, command, tmp_path, words, expected):
    train(command, *words)
    assert chosen(tmp_path / "run") == (expected, expected.precision)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("speed.compile=maybe", "speed.compile=maybe: need true or false, or null"),
        ("speed=fast", "speed"),
        ("speed.threads=-1", "speed.threads=-1: need a number of threads, 0 for as many as torch takes, or null"),
        ("speed.threads=true", "speed.threads=True: need a number of threads"),
        ("+speed.faster=true", "speed.faster"),
        ("speed.precision=16", "trainer.precision=16: need one of 32-true"),
    ],
)
def test_a_bad_value_is_one_line(command, word, line):
    code, _, err = command("train", *runs.words(word, folder="run", tiny=QUICK))
    assert code == 2
    assert line in err
    assert "Traceback" not in err


def losses(command, tmp_path, name, *words):
    train(command, "trainer.max_steps=12", "trainer.log_every_n_steps=1", *words, folder=name)
    return torch.tensor([float(row["train/loss"]) for row in runs.table(tmp_path / name / "metrics.csv") if row["train/loss"]])


def test_a_fast_run_learns_what_a_plain_one_learns(gain, command, tmp_path):
    plain, again, fast = (losses(command, tmp_path, name, f"speed={name[:-1]}") for name in ("off1", "off2", "auto1"))
    assert torch.equal(plain, again)
    assert not torch.equal(plain, fast)
    assert torch.allclose(plain, fast, rtol=0.02)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch asks for it and drops the warning
def test_compiled_regions_change_neither_names_nor_results_and_are_compiled_once(monkeypatch):
    counter, compile_ = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda *words, **options: compile_(*words, backend=counter, **options))
    network = UNet(1, 8, base_channels=8, channel_multipliers=[1, 2], attention_resolutions=[4], norm_groups=4)
    nn.init.normal_(network.conv_out.weight)
    x, label = torch.randn(2, 1, 8, 8), torch.rand(2)
    names, expected = list(network.state_dict()), network(x, label)
    speed.prepare(network, Speed(compile=True))
    assert list(network.state_dict()) == names
    assert torch.equal(network(x, label), expected)
    compiled = counter.frame_count
    assert 0 < compiled <= len(network.regions)
    for _ in range(3):
        network(x, label).sum().backward()
    assert counter.frame_count == compiled


def test_a_network_of_somebody_else_is_compiled_as_a_whole_and_may_have_tensors_of_any_shape():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.odd = nn.Parameter(torch.ones(1, 2, 3, 4, 5))
            self.conv = nn.Conv2d(2, 2, 3)

        def forward(self, x, label, cond=None):
            return x

    module = NetworkDenoiser(Mine(), LinearSchedule(), Epsilon())
    assert speed.regions(module) == [module.network]
    assert speed.regions(nn.Linear(1, 1)) == []
    speed.prepare(module, Speed(channels_last=True))
    assert module.network.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert module.network.odd.is_contiguous()


@pytest.mark.parametrize("channels", [1, 3])
def test_every_feature_lies_pixel_by_pixel_whatever_the_number_of_channels(channels):
    network = UNet(channels, 8, base_channels=8, channel_multipliers=(1, 2), norm_groups=4, attention_resolutions=(4,))
    speed.prepare(network, Speed(channels_last=True))
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.register_forward_pre_hook(lambda layer, inputs: found.append(inputs[0]))
    network(torch.randn(2, channels, 8, 8), torch.rand(2))
    assert len(found) > 10
    assert all(x.stride(1) == 1 for x in found)


class Waits(TorchDispatchMode):
    """Counts the operations for which a GPU would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.masked_select.default,
        ):
            self.found.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("waits", [False, True])
def test_a_step_does_not_wait_for_the_device(command, monkeypatch, waits):
    advance, mode, steps = _TrainingEpochLoop.advance, Waits(), []

    def counted(loop, *arguments):
        steps.append(loop)
        if not 3 <= len(steps) <= 6:
            return advance(loop, *arguments)
        with mode:
            if waits:
                float(torch.ones(1))
            return advance(loop, *arguments)

    monkeypatch.setattr(_TrainingEpochLoop, "advance", counted)
    train(command, "trainer.max_steps=8", "trainer.log_every_n_steps=8", "speed=off")
    assert len(mode.found) == (4 if waits else 0)


@pytest.mark.parametrize(
    ("num", "num_devices", "size"), [(50_000, 1, 511), (1000, 8, 125), (600, 1, 300), (512, 1, 512), (3, 8, 1), (513, 2, 257)]
)
def test_gpus_draw_equal_batches(gpu, num, num_devices, size):
    given = {"checkpoint": "x", "run_dir": "y", "num": num}
    assert Inference(**given, accelerator="cuda").samples_at_a_time(num, num_devices) == size
    assert Inference(**given, accelerator="cuda", batch_size=7).samples_at_a_time(num, num_devices) == min(7, num)
    assert Inference(**given, accelerator="cpu").samples_at_a_time(num, num_devices) == min(64, num)
    job = SamplingJob(DDIM(), Pixels(), (1, 8, 8), 0, size)
    shares = {len(list(job.batches(num, rank, num_devices))) for rank in range(num_devices)}
    assert len(shares) == 1 or num < num_devices


def test_what_a_machine_cannot_do_is_a_line(gain, monkeypatch, caplog):
    given = {"checkpoint": "x", "run_dir": "y"}
    assert Inference(**given, accelerator="cpu", precision="16-mixed").speed.precision == "bf16-mixed"
    assert "precision=16-mixed: is for GPUs; on this processor precision=bf16-mixed" in caplog.text
    monkeypatch.setattr(speed, "has_bfloat16_units", lambda: False)
    assert Inference(**given, accelerator="cpu", precision="16-mixed").speed.precision == "32-true"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    assert not Inference(**given, accelerator="cuda", compile=True).speed.compile
    assert "speed.compile=true: triton is not installed" in caplog.text


def test_likelihoods_are_not_compiled(gain, command, tmp_path):
    folder = runs.trained(*runs.BRIEF)
    model, counter = alphabar.load(folder, device="cpu"), CompileCounter()
    images = model.sample(2, num_steps=3)
    expected = model.log_likelihood(images, num_steps=2, probes=2)
    for region in speed.regions(model.denoiser):
        region.compile(backend=counter, dynamic=False)
    assert torch.equal(model.log_likelihood(images, num_steps=2, probes=2), expected)
    assert counter.frame_count == 0
    code, _, err = command("evaluate", f"checkpoint={folder}/checkpoints/last.ckpt", "metric=bpd", "speed.compile=true")
    assert (code, "likelihoods need speed.compile=false" in err) == (2, True)


def test_encoding_is_float32(command, monkeypatch):
    found = []

    def spy(*arguments):
        found.append(({each.fp32_precision for each in TF32_SETTINGS}, torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
        return encode(*arguments)

    monkeypatch.setattr("alphabar.sampling.tasks.encode.encode", spy)
    checkpoint = runs.trained(*runs.BRIEF) / "checkpoints" / "last.ckpt"
    words = ("sample", "task=encode", f"checkpoint={checkpoint}", "num=2", "sampler.num_steps=3", "sampler=euler")
    code, _, err = command(*words, "hydra.run.dir=encoded")
    assert code == 0, err
    assert found == [({"ieee"}, False, False)]
    for word in ("precision=bf16-mixed", "speed.tf32=true"):
        code, _, err = command(*words, word, "hydra.run.dir=not")
        assert (code, "task=encode needs precision=32-true and speed.tf32=false, got" in err) == (2, True)


def test_a_network_with_adapters_is_compiled_in_the_parts_of_what_it_adapts():
    network = UNet(1, 8, base_channels=8, channel_multipliers=(1, 2), norm_groups=4, attention_resolutions=(4,))
    own = list(network.regions)
    pytest.importorskip("peft")
    assert speed.regions(LoRA(network)) == own


def test_samples_are_drawn_at_the_speed_of_the_machine(gain, command, tmp_path):
    folder = runs.trained(*runs.BRIEF)
    for name, words in {"auto": (), "off": ("speed=off",), "half": ("precision=bf16-mixed", "speed=off")}.items():
        code, out, err = command("sample", f"checkpoint={folder}/checkpoints/last.ckpt", *SAMPLE, *words, f"hydra.run.dir={name}")
        assert code == 0, err
        used = {"auto": str(IN_BFLOAT16), "off": "32-true", "half": "bf16-mixed"}[name]
        assert f" ({used}) in {name}: grid.png" in out
        assert json.loads((tmp_path / name / "receipt.json").read_text())["starts"][0]["speed"] == used
    code, _, err = command("sample", f"checkpoint={folder}/checkpoints/last.ckpt", *SAMPLE, "speed.threads=-1")
    assert code == 2
    assert "need speed.threads >= 0" in err


def test_a_notebook_draws_at_the_speed_of_the_machine_and_measures_likelihoods_in_float32(gain):
    folder = runs.trained(*runs.BRIEF)
    fast, plain = alphabar.load(folder, device="cpu"), alphabar.load(folder, device="cpu", precision="32-true")
    assert fast.pipeline.settings.speed == IN_BFLOAT16
    assert plain.pipeline.settings.speed == IN_FLOAT32
    for model, num_low in ((fast, 3), (plain, 0)):
        dtypes = []
        model.denoiser.network.conv_in.register_forward_hook(lambda layer, inputs, output: dtypes.append(output.dtype))  # noqa: B023
        images = model.sample(2, num_steps=3)
        assert dtypes.count(torch.bfloat16) == num_low
    assert torch.allclose(fast.log_likelihood(images, num_steps=2), plain.log_likelihood(images, num_steps=2))
