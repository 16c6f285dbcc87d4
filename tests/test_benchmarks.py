"""Every benchmark runs, at a smoke size."""

import csv
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import speed as speed_benchmark
import torch
from measuring import gpu_sizes
from measuring.gpu_parts import PARTS, Correctness, Features
from measuring.ours import Enough, StepClock
from measuring.peers import CompiledDiffusers, TrainingTask
from measuring.timing import CLOCKS, Call, GlobalSettings, Measured
from measuring.works import DistanceWork, FeaturesWork, Settings, added

import document_files
import documents
import runs
from alphabar.data.sources.digits import DigitsSource
from alphabar.metrics.extractor import in_float32
from alphabar.models.networks.diffusers import to_diffusers
from alphabar.models.networks.unet import UNet
from alphabar.sampling.image_grid import save_png
from alphabar.speed import Speed, prepare
from alphabar.training.modules.diffusion import DiffusionModule

BENCHMARKS = sorted(path.stem for path in (runs.ROOT / "benchmarks").glob("*.py"))


def sweep(tmp_path):
    """Returns the folder of a sweep with one finished job."""
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "0").symlink_to(document_files.MODELS["plain"]())
    with (tmp_path / "sweep" / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["job", "state", "method", "seed"], ["0", "finished", "ddpm", "0"]])
    return tmp_path / "sweep"


def plain(tmp_path):
    return document_files.last(document_files.MODELS["plain"]())


def super_resolution(tmp_path):
    """Returns a checkpoint whose run may be written into."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    copy = tmp_path / "run" / "checkpoints" / "last.ckpt"
    copy.write_bytes(document_files.last(document_files.MODELS["super_resolution"]()).read_bytes())
    return copy


def samples_of_digits(tmp_path):
    """Returns the words that name 80 held-out digits as samples."""
    images = DigitsSource().held_out().images(range(80))
    np.savez(tmp_path / "digits.npz", images=images.permute(0, 2, 3, 1).numpy())
    return f"--samples=held-out images of more={tmp_path / 'digits.npz'}"


# What each is given in place of what it measures, and a word of what it prints.
SMOKE = {
    "endurance": (
        None,
        ["--steps", "10", *runs.TINY, *runs.BRIEF[1:], "trainer.log_every_n_steps=1"],
        "left in the temporary folder",
    ),
    "equal_time": (
        None,
        [*runs.TINY, *runs.BRIEF[1:], "features=pixels", "--tools=alphabar", "--minutes=0.01", "--num=70", "--threads=1"],
        "| alphabar |",
    ),
    "evaluation_memory": (plain, ["--nums", "8", *document_files.EVALUATION[1:], "features=pixels"], "ratio"),
    "features": (
        samples_of_digits,
        ["data=digits", "data.num_held_out=1777", "--num", "70", "--cache-dir", runs.CACHE],
        "\nheld-out images of more  ",
    ),
    "fuzz": (plain, ["--cases", "2"], "data.pkl: 2 files, 0 kinds of failure"),
    "gpu": (None, ["samples", "--smoke", "--out=gpu"], "speed  samples  evaluations"),
    "methods": (sweep, ["--num", "70", "--most", "10"], "| ddpm | DDIM |"),
    "scaling": (None, ["unet_tiny"], "| `unet_tiny` | 8x8 |"),
    "super_resolution": (super_resolution, ["--num", "8", "--num-steps", "2", "--cache-dir", runs.CACHE], "bicubic"),
    "survival": (
        None,
        ["--kills", "1", "--rank-kills", "0", "trainer.max_steps=9", "callbacks.samples=null"],
        "1 process: 1 kills",
    ),
    "speed": (
        None,
        [
            "train-digits",
            "sample",
            "data",
            "sampler-ddim",
            "sampler-ddpm",
            "sampler-dpmpp",
            "sampler-heun",
            "overhead",
            "--steps=1",
            "--rounds=1",
            "--batch-size=1",
            "--out=speed",
        ],
        "added to a step",
    ),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs(name, tmp_path):
    subject, words, printed = SMOKE[name]
    subjects = [] if subject is None else [str(subject(tmp_path))]
    code, out, err = runs.run(f"benchmarks/{name}.py", *subjects, *words, cwd=tmp_path)
    assert code == 0, err
    assert printed in out
    if name == "speed":
        check_speed(tmp_path / "speed")


def check_speed(folder):
    """Asserts that a folder has the results of the smoke of benchmarks/speed.py."""
    found = json.loads((folder / "speed.json").read_text())
    assert found["machine"]["all_rows_keep_freed_memory"] is (sys.platform == "linux")
    assert list(found["works"]) == [word for word in SMOKE["speed"][1] if not word.startswith("--")]
    rows = {row["label"]: row for row in found["works"]["train-digits"]["rows"]}
    ours = {"alphabar", "alphabar, speed=off"}
    assert ours <= rows.keys()
    assert all(row["mfu"][0] > 0 and row["parameters"] > 0 for row in rows.values())
    packages = {"diffusers": "diffusers", "torchcfm": "torchcfm", "denoising-diffusion-pytorch": "denoising_diffusion_pytorch"}
    missing = "\n".join(found["works"]["train-digits"]["missing"])
    for name, package in packages.items():
        assert any(label.startswith(name) for label in rows) is (f"{package} is not installed" not in missing)
    assert (folder / "speed.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("tool", "package"), [("denoising_diffusion_small", "denoising_diffusion_pytorch"), ("diffusers_small", "diffusers")]
)
def test_the_recipe_of_another_tool_takes_a_step_and_draws(tool, package, tmp_path):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    for number, image in enumerate(DigitsSource().train().images(range(100))):
        save_png(image, tmp_path / "images" / f"{number}.png")
    task = {"images": str(tmp_path / "images"), "folder": str(tmp_path), "channels": 1, "height": 8, "width": 8, "flip": False}
    unet, _ = to_diffusers(UNet(1, 8, base_channels=8, channel_multipliers=(1, 2), attention_resolutions=(), norm_groups=4))
    task |= {"words": [], "seconds": 1e-3, "seed": 0, "num": 3, "evaluations": 2, "threads": 1, "unet": unet}
    (tmp_path / "task.json").write_text(json.dumps(task))
    env = {"PYTHONPATH": os.pathsep.join([str(runs.ROOT / "benchmarks"), str(runs.ROOT / "src")])}
    code, _, err = runs.run("-m", "recipes", tool, tmp_path / "task.json", time.time(), cwd=tmp_path, env=env)
    assert code == 0, err
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["steps"], result["evaluations"], result["sampler"]) == (1, 2, "ddim2")
    assert result["seconds"] > 0
    with np.load(tmp_path / "samples.npz") as samples:
        assert (samples["images"].shape, samples["images"].dtype) == ((3, 8, 8, 1), np.uint8)


def test_the_judge_of_equal_time_gives_held_out_images_the_floor_and_goes_on_past_one_that_fails(tmp_path):
    images = DigitsSource().held_out().images(range(70)).permute(0, 2, 3, 1).numpy()
    trained = {"steps": 300, "images_per_step": 16, "seconds": 60, "start_up_seconds": 5, "sampling_seconds": 2}
    about = {"parameters": 2_000_000, "evaluations": 50, "sampler": "ddim50", "settings": "AdamW"}
    for seed in (0, 1):
        folder = tmp_path / f"diffusers-{seed}"
        folder.mkdir()
        np.savez(folder / "samples.npz", images=images if seed == 0 else 255 - images)
        (folder / "result.json").write_text(json.dumps(trained | about))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "diffusers.py").write_text("raise ImportError('no such luck')")
    broken = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "broken"), *filter(None, [os.environ.get("PYTHONPATH")])])}
    words = [*runs.TINY, "--num=70", "--threads=1", f"--out={tmp_path}"]
    code, out, err = runs.run(
        "benchmarks/equal_time.py", *words, "--tools", "diffusers_small", "diffusers", cwd=tmp_path, env=broken
    )
    assert code == 1, err
    assert (
        f"diffusers_small, seed 0: failed: ImportError: no such luck (all of it: {tmp_path / 'diffusers_small-0' / 'log.txt'})\n"
        in out
    )
    cells = next(line for line in out.splitlines() if line.startswith("| diffusers |")).split(" | ")
    assert cells[2:] == ["1.00", "300", "16", "80", "2.00 M", "50", "2 s", "5 s |"]
    (result,) = json.loads((tmp_path / "equal_time.json").read_text())
    assert result["fid"] == pytest.approx(result["floor"], rel=1e-5)
    assert (tmp_path / "equal_time.png").is_file()
    code, out, err = runs.run("benchmarks/equal_time.py", *words, "--tools=diffusers", "--seeds", "0", "1", cwd=tmp_path)
    assert code == 0, err
    assert " ± " in out
    assert json.loads((tmp_path / "equal_time.json").read_text())[1]["fid"] > 10 * result["floor"]


@pytest.mark.parametrize(("work", "error"), [(FeaturesWork(batch_size=1), 1e-6), (DistanceWork(num_features=64), 1e-8)])
def test_speed_of_fid_is_that_of_what_other_tools_compute(tmp_path, work, error):
    found = work.measure(Settings(1, 1, None, "cpu", ("float32",), tmp_path))
    labels = [row["label"] for row in found["rows"]]
    assert labels[:2] == ["torch-fidelity", "torchmetrics"]
    assert all(label.startswith("alphabar") for label in labels[2:])
    assert all(row["seconds"][0] > 0 for row in found["rows"])
    assert float(re.search(r"by (\S+) of", found["rows"][-1]["remark"])[1]) < error
    assert json.loads(json.dumps(found)) == found


@pytest.fixture
def settings():
    """Restores what is set for the whole process."""
    found = GlobalSettings()
    yield found
    found.restore()


def test_a_run_may_start_after_one_that_used_tf32(settings):
    """torch refuses to say how it multiplies matrices once it was set in both of its ways, and Lightning asks at every start on a GPU."""
    for _ in range(2):
        prepare(torch.nn.Linear(1, 1), Speed(tf32=True))
        settings.restore()
        assert torch.get_float32_matmul_precision() == settings.matmul_precision  # what Lightning asks
        with in_float32(torch.device("cpu")):
            GlobalSettings().restore()
        assert torch.get_float32_matmul_precision() == settings.matmul_precision
        assert torch.backends.cudnn.allow_tf32
        prepare(torch.nn.Linear(1, 1), Speed())


@pytest.mark.parametrize(("device", "times", "waits"), [("cpu", [1.0, 1.0, 1.0, 5.0], 0), ("cuda", [2.0], 2)])
def test_nobody_waits_for_a_gpu_between_the_ends_of_a_round(monkeypatch, tmp_path, device, times, waits):
    """Neither in a loop, nor in a run, which three steps warm up; a step takes a second, the fourth of those timed five."""
    done, waited = [], []
    monkeypatch.setattr("torch.cuda.synchronize", waited.append)

    def seconds(warm_up):
        return float(len(done) + (4 if len(done) == warm_up + 4 else 0))

    def train():
        for number in range(9):
            done.append("step")
            clock.on_train_batch_end(None, module, None, None, number)

    call = Call("", "float32", 1, lambda: done.append("work"), lambda: seconds(1))
    call.device = torch.device(device)
    assert call.times(4) == times
    assert len(waited) == waits
    done.clear()
    monkeypatch.setitem(CLOCKS, "steps", lambda: seconds(3))
    clock, module = StepClock(str(tmp_path / "times.json"), 4, "steps"), types.SimpleNamespace(device=torch.device(device))
    with pytest.raises(Enough):
        train()
    assert len(done) == 7
    assert json.loads((tmp_path / "times.json").read_text()) == times
    assert len(waited) == 2 * waits


def test_diffusers_trains_compiled(monkeypatch):
    pytest.importorskip("diffusers", reason="needs diffusers")
    compiled, called = [], []

    def compile_none(network):
        compiled.append(network)
        network.register_forward_hook(lambda *_: called.append(network))
        return network

    monkeypatch.setattr("torch.compile", compile_none)
    ours = UNet(1, 8, base_channels=8, channel_multipliers=(1, 2), attention_resolutions=(), norm_groups=4)
    peer = CompiledDiffusers(TrainingTask(ours, 2, CLOCKS["wall"], torch.device("cpu")), "float32")
    before = [each.detach().clone() for each in peer.network.parameters()]
    peer.act()
    peer.act()  # the first step has the rate 0
    assert len(compiled) == 1
    assert len(called) == 2
    assert any(not torch.equal(old, new) for old, new in zip(before, peer.network.parameters(), strict=True))


def test_what_a_step_in_four_takes_is_in_what_is_added_to_a_step():
    bare, whole = Measured(None, [[1.0] * 4] * 3), Measured(None, [[1.0, 1.0, 1.0, 5.0]] * 3)
    assert added([bare, whole]) == "1e+03 ms (1e+03 to 1e+03)"


@pytest.mark.parametrize("isa", [None, "AVX512_CORE"])
def test_a_processor_without_bfloat16_is_simulated_whatever_the_environment_says(monkeypatch, isa):
    """The command starts itself again with the variable that torch reads when it is loaded."""
    replaced = []
    monkeypatch.setattr("sys.argv", ["speed.py", "--without-bf16"])
    monkeypatch.setattr("os.execve", lambda path, words, environment: replaced.append(environment) or sys.exit(0))
    if isa is None:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    else:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    with pytest.raises(SystemExit):
        speed_benchmark.main()
    assert [each["ONEDNN_MAX_CPU_ISA"] for each in replaced] == ["AVX2"]


@pytest.mark.parametrize(("word", "fault"), [("--without", "unrecognized arguments: --without"), ("--without-bf16", "got a GPU")])
def test_what_is_not_simulated_is_refused(monkeypatch, capsys, tmp_path, word, fault):
    """Neither a shorter word, which would be read too late, nor a processor where a GPU is measured."""
    monkeypatch.setattr("sys.argv", ["speed.py", word, f"--out={tmp_path / 'speed'}"])
    monkeypatch.setattr("measuring.timing.used_device", lambda: torch.device("cuda"))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    with pytest.raises(SystemExit) as stopped:
        speed_benchmark.main()
    assert stopped.value.code == 2
    assert fault in capsys.readouterr().err
    assert not (tmp_path / "speed").exists()


@pytest.mark.parametrize(
    ("auto", "outside"),
    [((1.04, 1.12), []), ((1.2, 1.3), ["auto"]), ((0.8, 0.9), ["auto"]), ((1.0, math.nan), ["auto"]), ((1.2,), [])],
)
def test_the_loss_of_auto_is_held_against_the_range_of_the_seeds(auto, outside):
    """One seed of two says nothing yet."""
    curves = {"off": ([2.0, 1.0], [2.1, 1.1]), "auto": [[2.0, loss] for loss in auto]}
    values = {f"{name}, seed {seed}": curve for name, each in curves.items() for seed, curve in enumerate(each)}
    assert Correctness().faults(values) == [
        f"correctness: the loss of {name} is outside the range of the seeds of off" for name in outside
    ]


@pytest.mark.parametrize(("autocast", "cpu", "num"), [(0.0, 1e-6, 0), (1e-7, 1e-6, 1), (0.0, 1e-3, 1), (math.nan, 0.0, 1)])
def test_features_have_to_be_float32_on_a_gpu(autocast, cpu, num):
    assert len(Features().faults({"features": {"num": 2, "autocast": autocast, "cpu": cpu}})) == num


def test_a_part_of_a_gpu_that_was_cut_off_goes_on_and_a_complete_one_is_left_as_it_is(tmp_path):
    words = ("benchmarks/gpu.py", "correctness", "--smoke", f"--out={tmp_path}")
    assert runs.run(*words, cwd=tmp_path)[0] == 0
    complete, partial = tmp_path / "correctness.json", tmp_path / "correctness.partial.json"
    found = json.loads(complete.read_text())
    *others, last = found["values"]
    left = {key: [7.0, 7.0] for key in others}  # values that would come out otherwise if they were measured again
    partial.write_text(json.dumps(found | {"values": left}))
    complete.unlink()
    code, out, err = runs.run(*words, cwd=tmp_path)
    assert code == 0, err
    assert [line.strip() for line in out.splitlines() if line.endswith("...")] == [f"{last} ..."]
    values = json.loads(complete.read_text())["values"]
    assert values.keys() == found["values"].keys()
    assert values | left == values
    assert sorted(path.name for path in tmp_path.iterdir()) == ["correctness.json"]
    code, out, err = runs.run(*words, cwd=tmp_path)
    assert (code, out) == (0, "  is there\n"), err
    other = found | {"machine": found["machine"] | {"processor": "another one"}}
    complete.write_text(json.dumps(other))
    code, out, err = runs.run(*words, cwd=tmp_path)
    assert code == 0, err
    assert "correctness.json is of another machine, size or version, and is replaced\n" in out
    assert json.loads(complete.read_text())["machine"] == found["machine"]
    code, out, err = runs.run("benchmarks/gpu.py", f"--out={tmp_path}", cwd=tmp_path)  # the summary
    assert code == 1
    assert "== correctness, " in out
    assert "correctness: not complete" not in err
    assert "samples: not complete" in err


STAND_IN = """#!/bin/sh
# Python, in which there is a GPU, all parts but `training` succeed, and the summary finds no fault.
[ "$1" = -c ] && exit 0
[ "$2" = --out ] && { echo the summary; exit 0; }
[ "$2" = training ] && exit 1
echo "$2 runs"
touch "$4/$2.json"
"""


def run_gpu_script(tmp_path, python, **environment):
    stand_in = tmp_path / "python"
    stand_in.write_text(python)
    stand_in.chmod(0o755)
    env = os.environ | {"PYTHON": str(stand_in), "OUT": str(tmp_path / "out"), "SMOKE": ""} | environment
    done = subprocess.run([runs.ROOT / "benchmarks" / "gpu.sh"], env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_a_batch_that_does_not_fit_into_a_gpu_is_a_row(tmp_path, monkeypatch):
    def full(self, *args):
        torch.set_float32_matmul_precision("high")
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(DiffusionModule, "training_step", full)
    part, values = PARTS["training"], {}
    part.run(gpu_sizes.SMOKE, tmp_path, lambda key, function: values.setdefault(key, function()))
    assert values == {"2": {}}
    assert part.as_text(values).splitlines()[-1].split(maxsplit=1) == ["2", "out of memory"]
    assert torch.get_float32_matmul_precision() == "highest"
    monkeypatch.setattr(DiffusionModule, "training_step", lambda self, *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        part.run(gpu_sizes.SMOKE, tmp_path, lambda key, function: function())


def test_the_script_for_a_gpu_says_in_one_line_that_there_is_none(tmp_path):
    code, out, err = run_gpu_script(tmp_path, "#!/bin/sh\nexit 1\n")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no torch that sees a GPU" in err
    assert not (tmp_path / "out").exists()


def test_the_script_for_a_gpu_goes_on_past_what_fails(tmp_path):
    code, out, err = run_gpu_script(tmp_path, STAND_IN)
    assert code == 1
    assert [line for line in out.splitlines() if line.endswith("runs")] == [f"{part} runs" for part in PARTS if part != "training"]
    assert out.endswith("the summary\n")
    assert err == f"training: failed, see {tmp_path / 'out' / 'training.log'}\n"
    assert run_gpu_script(tmp_path, STAND_IN, LIMIT="0")[2] == "".join(
        f"{part}: no time left, start this command again\n" for part in PARTS
    )
    assert run_gpu_script(tmp_path, STAND_IN.replace("training", "none"))[::2] == (0, "")


def test_the_document_has_the_tables_of_scaling(tmp_path):
    code, out, err = runs.run("benchmarks/scaling.py", "dit_tiny", "unet_tiny", cwd=tmp_path)
    assert code == 0, err
    rows = [line for line in out.splitlines() if line.startswith(("| `dit_tiny` |", "| `unet_tiny` |"))]
    assert len(rows) == 8
    shown = (runs.ROOT / "docs" / "speed.md").read_text()
    assert [row for row in rows if row not in shown] == []


@pytest.mark.parametrize(
    "command", [pytest.param(each, id=str(each)) for each in documents.commands() if each.script.startswith("benchmarks/")]
)
def test_a_document_shows_a_benchmark_that_is_there(command):
    assert command.script.removeprefix("benchmarks/").removesuffix(".py") in SMOKE
