"""Checkpoints, run folders and sweeps of somebody who means harm: each is refused in one line, and nothing of it is run.

No code of a file is executed, no connection is opened, no secret of the environment is read, nothing is written beside the file,
and no memory is taken that its weights do not account for.
"""

import json
import os
import pickle
import resource
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.fabric import Fabric
from omegaconf import OmegaConf

import runs
import tiny_autoencoders
import tiny_models
import tiny_texts
from alphabar.cli.composition.recorded_command import check_recorded_command
from alphabar.errors import UserError
from alphabar.models.autoencoder_files import FrozenAutoencoder
from alphabar.models.clip.small import SmallCLIP, save_clip
from alphabar.models.clip.towers import Towers
from alphabar.models.frozen import load_transformers
from alphabar.models.text import TextEncoder
from alphabar.reports.report import report_command
from alphabar.runs.checkpoints.checkpoint import must_be_at_hand, read_checkpoint
from alphabar.runs.folders.run_dir import stored_config
from alphabar.sampling.model import load_model
from alphabar.sampling.prepare import load_data
from alphabar.training.run import train_until_stopped

SECRET = "the-secret-of-this-machine"
UNET = ("module", "denoiser", "network")
SCHEDULE = ("module", "denoiser", "schedule")


@pytest.fixture(scope="module")
def run():
    """The folder of a small run."""
    return runs.trained(*runs.BRIEF)


@pytest.fixture
def refusal(monkeypatch, tmp_path):
    """Returns the line with which a function refuses its file, in an empty folder that must stay as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPHABAR_SECRET", SECRET)
    monkeypatch.setattr(socket.socket, "connect", no_connection)

    def tell(function, *arguments):
        before, memory = snapshot(tmp_path), peak_memory()
        with pytest.raises(UserError) as caught:
            function(*arguments)
        line = str(caught.value)
        assert len(line.splitlines()) == 1, line
        assert len(line) < 1500
        assert SECRET not in line
        assert peak_memory() - memory < 400  # MB: of the libraries that are imported the first time
        assert snapshot(tmp_path) == before
        return line

    return tell


@pytest.fixture
def command_refusal(refusal, command):
    """Returns the line with which a command refuses its file."""

    def tell(script, *words):
        def act():
            code, out, err = command(script, *words)
            assert (code, out) == (2, "")
            assert err.startswith("error: ")
            assert err.count("\n") == 1, err
            assert err[:-1].isprintable(), repr(err)
            raise UserError(err)

        return refusal(act)

    return tell


def no_connection(self, address):
    raise AssertionError(f"a connection to {address}")


def peak_memory():
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def snapshot(folder):
    """The content of all files below a folder, but for the locks of runs."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".owner"}


def sample(path):
    """Builds what sample.py builds of a checkpoint."""
    load_model(path, "raw")


def evaluate(path):
    """Reads the data of a checkpoint, as evaluate.py does."""
    load_data(load_model(path, "raw"), None, Fabric(accelerator="cpu")).source.held_out()


def resume(folder):
    """Trains a run on, as train.py does."""
    train_until_stopped(OmegaConf.create({"run_dir": folder, "resume": folder}))


def put(config, path, value):
    *parents, last = path
    for key in parents:
        config = config[key]
    config[last] = value


def node(target, **arguments):
    return {"_target_": target, **arguments}


def nested(depth):
    content = {"leaf": 1}
    for _ in range(depth):
        content = {"a": content}
    return content


def bomb():
    content = ["x"] * 10
    for _ in range(12):
        content = [content] * 10
    return content


# (what is put where, what the line says) of a configuration, in a checkpoint or in config.yaml
CONFIGS = {
    "fid of torchmetrics as the module": (("module",), node("torchmetrics.image.fid.FrechetInceptionDistance", feature_extractor_weights_path="canary.ckpt"), ""),
    "fid of torchmetrics as the network": (UNET, node("torchmetrics.image.fid.FrechetInceptionDistance", feature_extractor_weights_path="canary.ckpt"), "torchmetrics.image.fid"),
    "metric of torchmetrics as the codec": (("module", "codec"), node("torchmetrics.text.bert.BERTScore", model_name_or_path="canary"), "module.codec: _target_ torchmetrics"),
    "a function": (("module", "codec"), node("os.system", command="touch canary"), "_target_ os.system is refused"),
    "a function of torch": (UNET, node("torch.load", f="canary.ckpt", weights_only=False), "_target_ torch.load is refused"),
    "a function of the hub": (UNET, node("torch.hub.load", repo_or_dir="evil/evil", model="canary"), "_target_ torch.hub.load is refused"),
    "getattr": (UNET, node("builtins.getattr"), "_target_ builtins.getattr is refused"),
    "a handler of logging": (("module", "codec"), node("logging.FileHandler", filename="canary"), "module.codec: _target_ logging.FileHandler is refused"),
    "a class of others": (UNET, node("mylab.Net", width=64), "if it is yours, or you trust whoever wrote it to run code here: trust=[mylab]"),
    "a class of others in a list": ((*UNET, "channel_multipliers"), [1, node("mylab.Net")], "channel_multipliers[1]: _target_ mylab.Net is refused"),
    "an interface": (UNET, node("alphabar.models.networks.Network"), "Network is an interface without forward"),
    "data as the network": (UNET, node("alphabar.data.sources.folder.Folder", root="canary"), "a subclass of Module goes there"),
    "our callback as the codec": (("module", "codec"), node("alphabar.training.callbacks.film.Film"), "a subclass of Codec goes there"),
    "trust in the file": (("trust",), ["torchmetrics", "evil"], None),
    "a function in torch.nn": (UNET, node("torch.nn.init.constant_", tensor=1, val=2), "torch.nn.init.constant_ is refused"),
    "what alphabar imports": (UNET, node("alphabar.runs.folders.run_dir.Path", a=1), "is refused"),
    "a strategy as the schedule": (SCHEDULE, node("lightning.pytorch.strategies.DeepSpeedStrategy", config="canary"), "is refused"),
    "a profiler as the codec": (("module", "codec"), node("lightning.pytorch.profilers.AdvancedProfiler", dirpath="canary"), "is refused"),
    "a logger as the codec": (("module", "codec"), node("lightning.pytorch.loggers.CSVLogger", save_dir="canary"), "is refused"),
    "a callback as the codec": (("module", "codec"), node("lightning.pytorch.callbacks.ModelCheckpoint", dirpath="canary"), "is refused"),
    "an optimizer as the network": (UNET, node("torch.optim.Adam", params=[]), "module.denoiser.network: "),
    "a codec as the denoiser": (("module", "denoiser"), node("alphabar.models.codecs.pixels.Pixels"), "a subclass of NetworkDenoiser goes there"),
    "a network as the conditioner": (("module", "conditioner"), node("torch.nn.Linear", in_features=1, out_features=1), "a subclass of Conditioner goes there"),
    "a part where a number goes": ((*UNET, "channels"), node("alphabar.models.codecs.pixels.Pixels"), "no object goes there"),
    "_partial_": ((*UNET, "_partial_"), True, "module.denoiser"),
    "_args_": ((*UNET, "_args_"), ["canary"], "_args_ is not supported"),
    "_recursive_": ((*UNET, "_recursive_"), False, "_recursive_ is not supported"),
    "_target_ no text": ((*UNET, "_target_"), ["os.system"], "is refused"),
    "_target_ with an escape sequence": ((*UNET, "_target_"), "alphabar.\x1b]0;canary\x07", "alphabar."),
    "a secret as the seed": (("seed",), "${oc.env:ALPHABAR_SECRET}", "seed: ${oc.env:ALPHABAR_SECRET} is refused"),
    "a secret as the name": (("name",), "run ${oc.env:ALPHABAR_SECRET}", "name: "),
    "a secret in a list": ((*UNET, "channel_multipliers"), ["${oc.env:ALPHABAR_SECRET}"], "channel_multipliers[0]: "),
    "a secret as a key": (("${oc.env:ALPHABAR_SECRET}",), 1, "a key must be a printable text"),
    "an interpolation of its own": ((*UNET, "channels"), "${shape.channels}", "module.denoiser.network.channels: "),
    "120 deep": (("deep",), nested(120), "nested more than"),
    "a bomb": (("bomb",), bomb(), "values"),
    "a long text": (("name",), "x" * 2_000_000, "1,048,576 characters"),
    "an escape sequence as a key": (("\x1b[2J\x1b[31mcanary",), node("os.system"), "\\x1b[2J"),
    "an escape sequence in an argument": ((*UNET, "channels"), "\x1b]52;c;canary\x07", "module.denoiser.network"),
    "a line break in a name": ((*UNET, "error: all is well\nerror"), 1, "a key must be a printable text"),
    "text from right to left": ((*UNET, "\u202echannels"), 1, "a key must be a printable text"),
    "no module": (("module",), None, ""),
    "a list as the module": (("module",), [], ""),
    "a wide network": ((*UNET, "base_channels"), 10**6, "more than belongs to the"),
    "a number of 10,000 bits": ((*UNET, "base_channels"), 2**10_000, ""),
    "a deep network": ((*UNET, "num_res_blocks"), 10**7, "more tensors than belongs to the"),
    "a network of 400 TB": (UNET, node("torch.nn.Linear", in_features=10**7, out_features=10**7), "of shape [10000000, 10000000], more than belongs to the weights in checkpoint=gift.ckpt"),
    "a long schedule": ((*SCHEDULE, "num_steps"), 10**11, "module.denoiser.schedule.num_steps: expected a number up to 1,000,000, got 100000000000"),
    "large images": (("shape", "resolution"), 100_000, "a number up to 16,384"),
    "wide images": (("shape", "resolution"), [8, 10**9], "shape.resolution[1]: expected a number up to 16,384"),
    "a network without forward": (UNET, node("torch.nn.Module"), "need a network that is called as network(x, label, cond), and Module has no forward"),
    "another network": ((*UNET, "base_channels"), 16, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_configuration_in_a_checkpoint(refusal, run, tmp_path, name):
    path, value, part = CONFIGS[name]
    content = runs.checkpoint(run)
    put(content["config"], path, value)
    if part is None:  # says nothing by itself
        path, value, part = UNET, node("evil.Net"), "trust=[evil]"
        put(content["config"], path, value)
    torch.save(content, tmp_path / "gift.ckpt")
    assert part in refusal(sample, "gift.ckpt")


# What a checkpoint of a sample does not build.
RUN_ONLY = {
    "a logger that writes elsewhere": (("logger",), {"mine": node("lightning.pytorch.loggers.CSVLogger", _partial_=True, save_dir="canary")}, "logger.mine: _target_ lightning.pytorch.loggers.CSVLogger is refused"),
    "a callback that writes elsewhere": (("callbacks", "mine"), node("lightning.pytorch.callbacks.ModelCheckpoint", dirpath="canary"), "if it is yours, or you trust whoever wrote it to run code here: trust=[lightning]"),
    "a module as a callback": (("callbacks", "mine"), node("torch.nn.Linear", in_features=1, out_features=1), "a subclass of Callback goes there"),
    "our logger that writes elsewhere": (("logger",), {"mine": node("alphabar.training.loggers.tensorboard.TensorBoardRun", run_dir="canary", name="x")}, "logger.mine: need _partial_: true"),
    "a logger of the trainer that writes elsewhere": (("trainer", "logger"), node("alphabar.training.loggers.wandb_run.WandbRun", run_dir="canary", name="x"), "trainer.logger: need _partial_: true"),
    "a dataset of others": (("data",), node("alphabar.data.sources.dataset.MapDataset", dataset=node("torchvision.datasets.FakeData")), "data.dataset: _target_ torchvision.datasets.FakeData is refused"),
    "data that are a function": (("data", "_partial_"), True, "data: _partial_: true makes a function"),
    "data that are a list": (("data",), [], "data: need an object, a node with _target_, got []"),
    "a text as the sampler": (("sampler",), "x", "sampler: need an object, a node with _target_, got 'x'"),
    "a list of callbacks": (("callbacks",), [], "callbacks: need a mapping of objects by their names, got []"),
    "a number as the logger": (("logger",), 3, "logger: need a mapping of objects by their names, got 3"),
    "a trainer that is no function": (("trainer", "_partial_"), False, "trainer: need _partial_: true"),
    "an object as the whole": (("_target_",), "os.system", "_target_ is refused: a configuration as a whole is no object"),
    "an argument that is missing": (UNET, node("mylab.Net", width="???"), "trust=[mylab]"),
    "a profiler": (("trainer", "profiler"), node("lightning.pytorch.profilers.PyTorchProfiler", dirpath="canary"), "trainer.profiler: "),
    "a strategy": (("trainer", "strategy"), node("lightning.pytorch.strategies.DDPStrategy"), "trainer.strategy: "),
    "a plugin": (("trainer", "plugins"), [node("lightning.pytorch.plugins.io.TorchCheckpointIO")], "trainer.plugins[0]: "),
    "a metric": (("callbacks", "mine"), node("torchmetrics.image.fid.FrechetInceptionDistance", feature_extractor_weights_path="canary.ckpt"), "callbacks.mine: "),
    "a network as the data": (("data",), node("torch.nn.Linear", in_features=1, out_features=1), "data: _target_ Linear is refused"),
    "a network as the trainer": (("trainer", "_target_"), "torch.nn.Linear", "trainer"),
    "many processes": (("data", "num_workers"), 10**6, "data.num_workers: expected a number up to 1,024"),
    "many devices": (("trainer", "devices"), 10**6, "trainer.devices: expected a number up to 1,024"),
    "many steps of a sampler": (("sampler", "num_steps"), 10**12, "sampler.num_steps: expected a number up to 1,000,000"),
    "large batches": (("data", "batch_size"), 10**9, "data.batch_size: expected a number up to 65,536"),
    "many samples": (("callbacks", "samples"), node("alphabar.training.callbacks.samples.Samples", num=10**9), "callbacks.samples.num: expected a number up to 10,000,000"),
    "large batches of large images": (("data",), node("alphabar.data.sources.folder.Folder", root="x", batch_size=2**16, resolution=2**14), "config.yaml: data.batch_size: 65,536 images of 16384x16384 take 196,608.0 GB, and this machine has"),
    "a film of many states": (
        ("callbacks", "film"),
        node("alphabar.training.callbacks.film.Film", sampler=node("alphabar.diffusion.samplers.ddim.DDIM", num_steps=10**6), seed=0, num=10**6),
        "callbacks.film.num: 1,000,000,000,000 images of 8x8 take ",
    ),
    "a function as the sampler": (("sampler",), node("subprocess.run", args="touch canary"), "sampler: _target_ subprocess.run is refused"),
}  # fmt: skip
# Of those above, one for each place in which a configuration is looked at.
ALSO_IN_RUNS = (
    "a function", "fid of torchmetrics as the network", "a codec as the denoiser", "_args_", "a secret as the seed", "120 deep",
    "an escape sequence as a key", "a wide network", "a deep network", "a long schedule", "large images",
)  # fmt: skip


def gift(run, folder, path, value):
    """A folder of a run with a value in config.yaml and in the checkpoint, which agree as those of a run do."""
    shutil.copytree(run, folder)
    content = runs.checkpoint(run)
    put(content["config"], path, value)
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump(content["config"]))


@pytest.mark.parametrize("name", [*ALSO_IN_RUNS, *RUN_ONLY])
def test_a_hostile_configuration_of_a_run(refusal, run, tmp_path, name):
    path, value, part = (CONFIGS | RUN_ONLY)[name]
    gift(run, tmp_path / "gift", path, value)
    line = refusal(resume, "gift")
    assert part in line or "its config.yaml does not fit this version" in line


@pytest.mark.parametrize(
    ("script", "word", "name"),
    [
        ("sample", "checkpoint", "fid of torchmetrics as the module"),
        ("sample", "checkpoint", "_target_ with an escape sequence"),
        ("evaluate", "checkpoint", "a secret as the seed"),
        ("train", "resume", "an escape sequence in an argument"),
        ("train", "resume", "a callback that writes elsewhere"),
    ],
)
def test_a_command_refuses_in_one_line_without_control_characters(command_refusal, run, tmp_path, script, word, name):
    path, value, _ = (CONFIGS | RUN_ONLY)[name]
    gift(run, tmp_path / "gift", path, value)
    command_refusal(script, f"{word}=gift")


EVIL = """
from pathlib import Path
from torch import nn

Path("canary").touch()

class Net(nn.Module):
    pass
"""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sample", ["checkpoint=gift"]),
        ("sample", ["checkpoint=good", "guidance=autoguidance", "guidance.checkpoint=gift"]),
        ("sample", ["checkpoint=good", "stages=[gift]"]),
        ("evaluate", ["checkpoint=gift"]),
        ("train", ["resume=gift"]),
    ],
)
def test_a_module_beside_a_hostile_checkpoint_is_not_imported(command_refusal, run, tmp_path, script, words):
    """Whoever unpacks a gift and starts a command in it has its modules in the folder in which Python looks for those of the user."""
    gift(run, tmp_path / "gift", UNET, node("evil.Net"))
    shutil.copytree(run, tmp_path / "good")
    (tmp_path / "evil.py").write_text(EVIL)
    line = command_refusal(script, *words)
    assert "module.denoiser.network: _target_ evil.Net is refused" in line or "network: _target_ evil.Net is refused" in line
    assert "evil" not in sys.modules


class Payload:
    """What calls a function when a pickle is read that is not read with care."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def call(function, *arguments):
    return Payload(function, *arguments)


PICKLES = {
    "os.system": lambda: call(os.system, "touch canary"),
    "eval": lambda: call(eval, "open('canary', 'w')"),
    "exec": lambda: call(exec, "open('canary', 'w')"),
    "getattr": lambda: call(getattr, "text", "title"),
    "a path": lambda: call(Path, "canary"),
    "open": lambda: call(open, "canary", "w"),
    "torch.load": lambda: call(torch.load, "canary.ckpt"),
    "torch.hub": lambda: call(torch.hub.load_state_dict_from_url, "http://localhost/canary"),
    "a tensor that is not there": lambda: torch.zeros(1).expand(10**15),
    "a tensor without memory": lambda: torch.empty(10**15, device="meta"),
    "150 deep": lambda: nested(150),
    "5,000 deep": lambda: deep_list(5000),
}


def deep_list(depth):
    content = []
    for _ in range(depth):
        content = [content]
    return content


@pytest.mark.parametrize("place", ["config", "beside"])
@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_pickle(refusal, run, tmp_path, name, place):
    content = runs.checkpoint(run)
    (content if place == "beside" else content[place])["payload"] = PICKLES[name]()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # to write it
    try:
        torch.save(content, tmp_path / "gift.ckpt")
    finally:
        sys.setrecursionlimit(limit)
    line = refusal(read_checkpoint, "gift.ckpt")
    assert line.startswith("checkpoint=gift.ckpt: ")
    assert "weights_only" not in line
    assert "trust" not in line
    assert ("holds posix.system, which could run code" in line) == (name == "os.system")


STATES = {
    "callbacks.NonFiniteSteps.count": (1, None),  # only what the callback knows is taken from a file
    "callbacks.NonFiniteSteps.total": ("x", "need int"),
    "callbacks.Checkpoints": (3, "need dict"),
    "callbacks.Checkpoints.last_step": ("x", "need int"),
    "callbacks.TrainingLog.sums": (torch.zeros(2), "has the shape [2], need [10]"),
    "callbacks.TrainingLog.parts": ({"x": "x"}, "parts.x is of type str, need float"),
    "callbacks": ([], "need dict"),
    "figures": ([], "need dict"),
    "figures.fid": ("x", "need int or float"),
    "ema.weights": (3, "need dict"),
    "ema.averages": ([3], "ema.averages.0 is of type int, need dict"),
    "optimizer_states": ({}, "need list"),
    "optimizer_states.0": (3, "need dict"),
    "optimizer_states.0.state.0.exp_avg": (
        torch.zeros(2),
        "gift/checkpoints/last.ckpt: its optimizer_states.0.state.0.exp_avg has the shape [2]",
    ),
    "lr_schedulers": ([3], "need dict"),
    "loops": (3, "need dict"),
    "loops.fit_loop": (3, "need dict"),
}


@pytest.mark.parametrize("place", STATES)
def test_a_state_of_another_type(run, tmp_path, command, place):
    shutil.copytree(run, tmp_path / "gift")
    last = tmp_path / "gift" / "checkpoints" / "last.ckpt"
    last.with_name("last-1.ckpt").unlink(missing_ok=True)
    content = node = runs.checkpoint(run)
    *parents, key = [int(part) if part.isdecimal() else part for part in place.split(".")]
    for parent in parents:
        node = node[parent]
    node[key], expected = STATES[place]
    torch.save(content, last)
    code, _, err = command("train", "resume=gift", f"trainer.max_steps={content['global_step'] + 1}")
    if expected is None:
        assert code == 0, err
        return
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, "Traceback" in err) == (2, False)
    assert expected in line
    assert "checkpoint" in line


def test_a_hostile_pickle_without_a_container(refusal, tmp_path):
    (tmp_path / "gift.ckpt").write_bytes(pickle.dumps(call(os.system, "touch canary"), protocol=2))
    line = refusal(read_checkpoint, "gift.ckpt")
    assert "cannot be read" in line


YAMLS = {
    "an object of Python": "module: !!python/object/apply:os.system [touch canary]",
    "a path": "name: !!python/object/apply:pathlib.PosixPath [canary]",
    "a bomb of aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)),
    "an alias of itself": "a: &a [*a]",
    "a merge": "a: &a {x: 1}\nb: {<<: *a}",
    "deep": "a: " + "[" * 5000 + "]" * 5000,
    "not closed": "a: " + "{" * 900,
    "an unclosed list": "a: [1\nb: 2\n",
    "long": "a: " + "x" * 2_000_000,
    "many": "a: [" + "1," * 50_000 + "]",
    "bytes": "a: !!binary aGVsbG8=",
    "a set": "a: !!set {x, y}",
    "a number of 10,000 digits": "seed: " + "9" * 10_000,
    "no mapping": "[1, 2]",
    "empty": "",
    "two documents": "a: 1\n---\nb: 2",
    "control characters": "a: \x1b[2J",
    "a broken interpolation": "seed: ${oc.env:ALPHABAR_SECRET",
    "a nested interpolation": "seed: ${oc.decode:${oc.env:ALPHABAR_SECRET}}",
}  # fmt: skip


@pytest.mark.parametrize("name", YAMLS)
def test_a_hostile_config_yaml(refusal, tmp_path, name):
    (tmp_path / "config.yaml").write_text(YAMLS[name])
    line = refusal(stored_config, Path())
    assert "config.yaml: " in line
    assert name != "an unclosed list" or "config.yaml: line 2: not YAML (" in line


def test_a_config_yaml_that_is_no_text(refusal, tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    assert "config.yaml: cannot be read" in refusal(stored_config, Path())


@pytest.mark.parametrize("name", YAMLS)
def test_a_report_of_a_hostile_config_yaml_is_a_page(tmp_path, name):
    (tmp_path / "config.yaml").write_text(YAMLS[name])
    report_command([str(tmp_path)])
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_data_of_a_hostile_checkpoint(command_refusal, run, tmp_path):
    """Commands that look at the images a checkpoint was trained on."""
    gift(
        run,
        tmp_path / "gift",
        ("data",),
        node("torchmetrics.image.fid.FrechetInceptionDistance", feature_extractor_weights_path="canary.ckpt"),
    )
    assert "data: _target_ torchmetrics" in command_refusal("evaluate", "checkpoint=gift", "num=101", "features.max_images=200")


DATA = {
    "a dataset of others": (node("alphabar.data.sources.dataset.MapDataset", dataset=node("evil.Images")), "data.dataset: _target_ evil.Images is refused"),
    "a download": (node("alphabar.data.sources.torchvision.Torchvision", name="MNIST", root="canary", download="yes"), "no MNIST under "),
    "an argument of another type": (node("alphabar.data.sources.arrays.Arrays", path="x.npy", num_workers="many"), "checkpoint: data.num_workers: expected int or null, got 'many'"),
    "a function": (node("alphabar.data.sources.arrays.Arrays", path="x.npy", _partial_=True), "checkpoint: data: _partial_: true makes a function"),
    "a path for each number": (node("alphabar.data.sources.webdataset.WebDataset", shards="*{0..99999999999}", resolution=8), "need at most 1,000,000 files"),
    "a named pipe": (node("alphabar.data.sources.arrays.Arrays", path="pipe.npy"), "it is a named pipe, not a file"),
    "a device": (node("alphabar.data.sources.arrays.Arrays", path="zero.npy"), "it is a device, not a file"),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_data_that_are_built_of_a_hostile_checkpoint(refusal, run, tmp_path, name):
    content = runs.checkpoint(run)
    content["config"]["data"], part = DATA[name]
    torch.save(content, tmp_path / "gift.ckpt")
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "zero.npy").symlink_to("/dev/zero")
    assert part in refusal(evaluate, "gift.ckpt")


# (the command line in the record of a sweep, what a refusal says)
SWEEPS = {
    "a class": (["-m", "seed=1,2", "+callbacks.mine._target_=torchmetrics.image.fid.FrechetInceptionDistance"], "+callbacks.mine._target_="),
    "a class in a value": (["-m", "seed=1,2", "+callbacks.mine={_target_:torchmetrics.image.fid.FrechetInceptionDistance}"], "_target_"),
    "trust": (["-m", "seed=1,2", "trust=[evil]"], "trust=[evil]"),
    "a class of Hydra's": (["-m", "seed=1,2", "+hydra.callbacks.mine._target_=os.system"], "hydra.callbacks.mine._target_=os.system"),
    "a function of logging": (["-m", "seed=1,2", "+hydra.job_logging.handlers.x={(): os.system}"], "hydra.job_logging"),
    "files of YAML": (["-m", "seed=1,2", "--config-dir=evil"], "--config-dir=evil"),
    "a path of YAML": (["-m", "seed=1,2", "hydra.searchpath=[file://evil]"], "hydra.searchpath"),
    "variables": (["-m", "seed=1,2", "+hydra.job.env_set.LD_PRELOAD=evil.so"], "hydra.job.env_set"),
    "a secret": (["-m", "seed=1,2", "name='${oc.env:ALPHABAR_SECRET}'"], "name="),
    "a secret in an interpolation": (["-m", "seed=1,2", "name='${a.${oc.env:ALPHABAR_SECRET}}'"], "name="),
    "a folder elsewhere": (["-m", "seed=1,2", "hydra.sweep.subdir=../../elsewhere/${hydra.job.num}"], "hydra.sweep.subdir"),
    "a download": (["-m", "seed=1,2", "data=torchvision", "data.name=MNIST", "data.root=/elsewhere", "data.download=true"], "data.root=/elsewhere data.download=true"),
    "a cache": (["-m", "seed=1,2", "paths.cache=/elsewhere"], "paths.cache=/elsewhere"),
    "a folder of runs": (["-m", "seed=1,2", "paths.outputs=elsewhere"], "paths.outputs=elsewhere"),
    "a cache of captions": (["-m", "seed=1,2", "+conditioner={cache_dir: elsewhere}"], "cache_dir"),
    "a run": (["-m", "seed=1,2", "resume=elsewhere"], "resume=elsewhere"),
    "a run of a list": (["-m", "resume=null,elsewhere"], "resume=null,elsewhere"),
    "a path": (["-m", "seed=1,2", "+trainer.profiler=[a, ~/elsewhere]"], "+trainer.profiler="),
    "a path upwards": (["-m", "seed=1,2", "name=../victim", "hydra.sweep.subdir=${name}/${hydra.job.num}"], "name=../victim"),
    "this folder": (["-m", "seed=1,2", "name='${hydra.runtime.cwd}'"], "name="),
    "an absolute folder": (["-m", "seed=1,2", "hydra.sweep.subdir=/elsewhere/${hydra.job.num}"], "hydra.sweep.subdir=/elsewhere/"),
    "a model of the hub": (["-m", "seed=1,2", "codec=autoencoder", "codec.name=somebody/latents"], "codec.name=somebody/latents"),
    "weights of the hub": (["-m", "seed=1,2", "init_from=somebody/unet"], "init_from=somebody/unet"),
    "a server": (["-m", "seed=1,2", "logger=mlflow", "logger.mlflow.tracking_uri=databricks"], "logger.mlflow.tracking_uri=databricks"),
    "a dataset of the hub": (["-m", "seed=1,2", "data=huggingface", "data.name=somebody/images"], "data.name=somebody/images"),
    "many workers": (["-m", "seed=1,2", "data.num_workers=1000000"], "data.num_workers=1000000"),
    "many samples in a list": (["-m", "seed=1,2", "callbacks.samples.num=4,1e9"], "callbacks.samples.num=4,1e9"),
    "a range of workers": (["-m", "data.num_workers=range(999999,1000000)"], "data.num_workers=range(999999,1000000)"),
    "workers as another key": (["-m", "seed=1000000", "+data.num_workers=${seed}"], "+data.num_workers="),
    "many samples in a mapping": (["-m", "seed=1,2", "+callbacks.mine={num: 64, batch_size: 1000000}"], "batch_size: 1000000"),
    "a pickle": (["--experimental-rerun=canary.pickle"], "--experimental-rerun, which no sweep has"),
}  # fmt: skip


def sweep_record(folder, arguments, jobs=()):
    folder.mkdir()
    command = {"script": "train.py", "arguments": arguments, "working_directory": str(folder.parent)}
    (folder / "sweep.json").write_text(json.dumps({"command": command, "jobs": list(jobs)}))


@pytest.mark.parametrize("name", SWEEPS)
def test_a_hostile_sweep(command_refusal, tmp_path, name):
    arguments, part = SWEEPS[name]
    sweep_record(tmp_path / "gift", arguments)
    assert part in command_refusal("train", "sweep.resume=gift")


@pytest.mark.parametrize("folder", ["../elsewhere", "/tmp/elsewhere", 3])
def test_a_hostile_job_of_a_sweep(command_refusal, tmp_path, folder):
    sweep_record(tmp_path / "gift", ["-m", "seed=1,2"], [{"num": 0, "overrides": {"seed": "1"}, "folder": folder}])
    assert "sweep.json" in command_refusal("train", "sweep.resume=gift")


def test_what_is_risky_in_ones_own_sweep_is_named_again(tmp_path):
    risky = ["--config-dir=mine", "+callbacks.mine._target_=mylab.Callback"]
    arguments = ["-m", "seed=1,2", "hydra.sweep.subdir=${hydra.job.num}", *risky]
    for word in (risky[1], "trust=[mylab]"):
        with pytest.raises(UserError, match=r"go on with sweep.resume=gift --config-dir=mine$"):
            check_recorded_command(arguments, ["sweep.resume=gift", word], "gift")
    check_recorded_command(arguments, ["sweep.resume=gift", *risky], "gift")
    check_recorded_command(arguments, ["sweep.resume=gift"], "gift")  # once is enough
    with pytest.raises(UserError, match="its record does not have that"):
        check_recorded_command(["-m", "seed=1,2"], ["sweep.resume=gift", risky[0]], "gift")


def test_one_word_trusts_the_package_of_somebody_elses_sweep():
    """It stands for what runs its modules, and for nothing else."""
    words = [
        "network._target_=mylab.nets.Net,mylab.nets.Other",
        "+callbacks.mine={_target_: mylab.Callback, width: 3}",
        "hydra.searchpath=[pkg://mylab.conf]",
        "trust=[mylab]",
    ]
    with pytest.raises(UserError, match=r"go on with sweep.resume=gift 'trust=\[mylab\]'$"):
        check_recorded_command(["-m", "seed=1,2", *words], ["sweep.resume=gift"], "gift")
    check_recorded_command(["-m", "seed=1,2", *words], ["sweep.resume=gift", "trust=[mylab]"], "gift")
    check_recorded_command(["-m", "seed=1,2", *words], ["sweep.resume=gift"], "gift")  # once is enough
    others = [
        "network._target_=mylabor.Net",
        "network._target_=mylab.Net,os.system",
        "+callbacks.mine={_target_: mylab.Callback, log: {_target_: logging.FileHandler}}",
        "+callbacks.mine={_target_: mylab.Callback, dirpath: elsewhere}",
        "+callbacks.mine={_target_: mylab.Callback, path: /elsewhere}",
        "hydra.searchpath=[pkg://mylab.conf,file://evil]",
        "hydra.searchpath=[file://mylab]",
        "--config-dir=mylab",
        "trust=[mylab,evil]",
    ]
    for word in others:
        with pytest.raises(UserError, match=r"if it is yours, go on with sweep\.resume=gift "):
            check_recorded_command(["-m", "seed=1,2", *words, word], ["sweep.resume=gift", "trust=[mylab]"], "gift")


def test_ones_own_sweep_goes_on_without_a_word():
    """Values, choices of groups, places of jobs, and files that are read wherever they lie."""
    words = [
        "seed=1,2",
        "optimizer.lr=1e-3,1e-4",
        "experiment=smoke/latent_text",
        "data=folder",
        "data.root=/my/photos",
        "resume=null",
    ]
    places = [
        "hydra.sweep.dir=/scratch/sweep",
        "hydra.sweep.subdir=${name}/${hydra.job.num}",
        "name=mine",
        "codec.name=outputs/vae",
    ]
    for folder in ("mine", "/data/mine", "../mine"):
        check_recorded_command(["-m", *words, *places], [f"sweep.resume={folder}"], folder)
    check_recorded_command(["-m", "checkpoint=/a,/b", "data_root=../data", "init_from=/c"], ["sweep.resume=mine", "-m"], "mine")
    fetched = ["data.root=/my/data", "data.download=true"]
    check_recorded_command(["-m", *fetched], ["sweep.resume=mine", *fetched], "mine")


def test_a_link_in_a_hostile_sweep(command_refusal, tmp_path):
    """The notes of a job are removed before it starts."""
    sweep_record(tmp_path / "gift", ["-m", "seed=1,2"])
    (tmp_path / "victim" / "0").mkdir(parents=True)
    (tmp_path / "gift" / ".jobs").symlink_to(tmp_path / "victim")
    assert "gift: .jobs is a link to" in command_refusal("train", "sweep.resume=gift")


LATENTS = {"block_out_channels": [40_000, 40_000]}
SIZES = {
    "autoencoder": (tiny_autoencoders.save, LATENTS, lambda folder: FrozenAutoencoder(str(folder)).decode(torch.zeros(1, 2, 4, 4))),
    "CLIP": (tiny_models.clip, {"projection_dim": 10**10}, lambda folder: load_transformers("CLIP", "CLIPModel", folder)),
    "image features": (tiny_models.dinov2, {"hidden_size": 10**6}, lambda folder: load_transformers("features", "Dinov2Model", folder)),
    "deep image features": (tiny_models.dinov2, {"num_hidden_layers": 10**7}, lambda folder: load_transformers("features", "Dinov2Model", folder)),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_a_hostile_configuration_of_a_frozen_network(refusal, tmp_path, name):
    make, changes, load = SIZES[name]
    folder = make(tmp_path / "gift")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    assert ("need at most 1000 layers" if "deep" in name else "belongs to the weights in") in refusal(load, folder)


def test_a_hostile_configuration_of_a_small_clip(refusal, tmp_path):
    encoder = TextEncoder(str(tiny_texts.make("bert", tmp_path / "encoder")), 8)
    save_clip(Towers(encoder, width=8, channels=16, hidden=8), tmp_path / "gift")
    file = tmp_path / "gift" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"width": 10**6, "hidden": 10**5}))
    clip = SmallCLIP(str(tmp_path / "gift"))
    assert "belongs to the weights in" in refusal(clip.texts, ["a cat"], torch.device("cpu"))


FROZEN = {
    "autoencoder": (("module", "codec"), node("alphabar.models.codecs.autoencoder.Autoencoder", name="somebody/latents", channels=1), "module.codec.name"),
    "text encoder": (
        ("module", "conditioner"),
        node("alphabar.models.conditioners.text.Text", encoder=node("alphabar.models.text.TextEncoder", name="somebody/texts", max_length=8), channels=8),
        "module.conditioner.encoder.name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FROZEN)
def test_what_a_file_names_is_not_downloaded(refusal, hub, run, tmp_path, name):
    path, value, key = FROZEN[name]
    gift(run, tmp_path / "gift", path, value)
    for read in (lambda: sample("gift/checkpoints/last.ckpt"), lambda: resume("gift")):
        line = refusal(read)
        assert f"{key}=somebody/" in line
        assert "what a file names is not downloaded; if you trust it: hf download somebody/" in line


def test_only_a_whole_value_of_the_command_line_names_a_model(hub):
    config = OmegaConf.create({"codec": node("alphabar.models.codecs.autoencoder.Autoencoder", name="steps")})
    with pytest.raises(UserError, match=r"gift: codec.name=steps: is not on this machine"):
        must_be_at_hand(config, ["trainer.max_steps=3"], "gift")
    must_be_at_hand(config, ["codec_name=steps"], "gift")


def test_a_dataset_that_a_file_names_is_not_downloaded(refusal, hub, run, tmp_path):
    data = node("alphabar.data.sources.huggingface.HuggingFace", name="somebody/images", resolution=8, channels=1, download=True)
    gift(run, tmp_path / "gift", ("data",), data)
    for read in (lambda: resume("gift"), lambda: evaluate("gift/checkpoints/last.ckpt")):
        assert "not fetched; data.download=true fetches it, or data_root=somebody/images for the data of" in refusal(read)
