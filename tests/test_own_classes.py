"""Somebody else's classes: named on the command line or in a folder of YAML files, and in what a run of theirs has left."""

import json
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import alphabar
import runs
from alphabar.config.allowed_targets import allowing
from alphabar.config.roles import check_roles
from alphabar.config.trust import config_home, is_known, remember, trusting
from alphabar.errors import UserError
from alphabar.training.optimization.trial import check_optimizer

NET = """
from pathlib import Path
from torch import nn
from alphabar.diffusion.samplers.ddim import DDIM

Path("imported").touch()

class Net(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x, label, cond=None):
        return self.body(x)

class Blind(nn.Module):
    def forward(self, x):
        return x

class MyDDIM(DDIM):
    pass

def make_net(channels):
    return Net(channels, 3)
"""
PARTS = """
from dataclasses import dataclass
import torch
from torch import nn
from alphabar.diffusion.samplers import Sampler
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.schedules.continuous import ContinuousSchedule
from alphabar.models.codecs import Codec
from alphabar.models.conditioners import Conditioner

class Poly(ContinuousSchedule):
    def alpha(self, t):
        return 1 - t**2

class SetsLayer(ContinuousSchedule):
    def __init__(self):
        self.layer = nn.Linear(1, 1)

    alpha = sigma = lambda self, t: t

class SetsNumber(SetsLayer):
    def __init__(self):
        self.last = 1.0

class Breaks(SetsLayer):
    def __init__(self):
        super(SetsLayer, self).__init__()
        self.table = {}["table"]

class Raises(SetsLayer):
    def __init__(self):
        super(SetsLayer, self).__init__()

    def alpha(self, t):
        return self.speed * t

class Encode(Codec):
    def encode(self, images):
        return images

class TimesLabel(nn.Module):
    def forward(self, x, label, cond):
        return x * label

class Pair(nn.Module):
    def forward(self, x, label, cond):
        return x, None

class TimesAlpha(DDIM):
    def step(self, run, x_t, t, s):
        alpha, sigma = run.schedule(s)
        return alpha * x_t

class Wide(DDIM):
    def step(self, run, x_t, t, s):
        return x_t.double()

class ByName(Conditioner):
    def __init__(self, name: str, width: int = 4):
        super().__init__()
        self.name, self.width = name, width

    def forward(self, batch, share=None):
        return {"vector": batch[self.name][:, None].expand(-1, self.width).float()}

    def null(self, num):
        return {"vector": torch.zeros(num, 4)}

    def from_prompts(self, prompts):
        return self.null(len(prompts))

class Fields(DDIM):
    num_steps: int | None = 20

@dataclass(frozen=True, kw_only=True)
class Bare(DDIM):
    num_steps = 20

class FailsInTraining(nn.Module):
    fails_in = "train"

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x, label, cond):
        if torch.is_grad_enabled() if self.fails_in == "gradients" else self.training == (self.fails_in == "train"):
            raise KeyError(self.fails_in)
        return self.gain * x

class FailsInEval(FailsInTraining):
    fails_in = "eval"

class FailsWithGradients(FailsInTraining):
    fails_in = "gradients"

class Thin(FailsInTraining):
    def forward(self, x, label, cond):
        return self.gain * x[:, :, 1:]

class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.LazyConv2d(1, 3, padding=1)

    def forward(self, x, label, cond):
        return self.body(x)

class GivesTensor(ByName):
    def forward(self, batch, share=None):
        return super().forward(batch)["vector"]

class GivesLists(ByName):
    def forward(self, batch, share=None):
        return {"vector": [1, 2]}

class GivesOne(ByName):
    def forward(self, batch, share=None):
        return {"vector": super().forward(batch)["vector"][:1]}

class TakesBatch(ByName):
    def forward(self, batch):
        return super().forward(batch)
"""
SMALL = [word for word in runs.words(*runs.BRIEF, logger="csv") if not word.startswith("network.")]
OWN = ["network._target_=mylab.nets.Net", "+network.width=4"]


@pytest.fixture(autouse=True)
def _own_imports(monkeypatch):
    """What a command imports, and where from, ends with the test."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("mylab", "broken", "evil"):
            del sys.modules[name]


@pytest.fixture
def lab(command, tmp_path):
    """A folder with the package `mylab`, and no more, in which commands are started."""
    write(tmp_path / "mylab" / "nets.py", NET)
    write(tmp_path / "mylab" / "parts.py", PARTS)
    write(tmp_path / "mylab" / "__init__.py", "")
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def forget():
    """Makes this process one that has imported nothing of others."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]
    Path("imported").unlink(missing_ok=True)


def test_a_network_of_ones_own_is_trained_resumed_sampled_and_evaluated(command, lab):
    """It lies in the folder in which one stands, and is named once."""
    assert command("train", *SMALL, *OWN, "hydra.run.dir=out")[::2] == (0, "")
    saved = OmegaConf.load("out/config.yaml")
    assert OmegaConf.to_container(saved.network) == {"_target_": "mylab.nets.Net", "channels": 1, "width": 4}
    forget()
    assert command("train", "resume=out", "trainer.max_steps=3")[::2] == (0, "")
    assert command("sample", "checkpoint=out", "num=2", "sampler.num_steps=2", "hydra.run.dir=pictures")[::2] == (0, "")
    words = ["num=64", "sampler.num_steps=2", "features=pixels", "features.max_images=200", "num_seeds=1"]
    assert command("evaluate", "checkpoint=out", *words)[0] == 0
    assert runs.checkpoint("out")["global_step"] == 3


def test_what_somebody_else_trained_needs_a_word_once(command, lab, monkeypatch):
    assert command("train", *SMALL, *OWN, "hydra.run.dir=out")[0] == 0
    monkeypatch.setenv("ALPHABAR_CONFIG_HOME", str(lab / "other"))
    sample = ["checkpoint=out", "num=2", "sampler.num_steps=2"]
    for script, words in (("sample", sample), ("evaluate", ["checkpoint=out"]), ("train", ["resume=out", "trainer.max_steps=3"])):
        forget()
        code, out, err = command(script, *words)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert "module.denoiser.network: _target_ mylab.nets.Net is refused" in err or "its config.yaml: network" in err
        assert err.endswith(": trust=[mylab]\n")
        assert not Path("imported").exists()
    assert not (lab / "other").exists()
    code, _, err = command("sample", *sample, "trust=[mylab.net]")
    assert (code, "is refused" in err) == (2, True)
    assert command("sample", *sample, "trust=[mylab]", "hydra.run.dir=pictures")[::2] == (0, "")
    assert json.loads(Path("pictures/receipt.json").read_text())["starts"][0]["command"].endswith(
        "'trust=[mylab]' hydra.run.dir=pictures"
    )
    forget()
    assert command("sample", *sample)[::2] == (0, "")


@pytest.mark.parametrize(
    ("name", "refusal"), [("Popen", "it is Popen of subprocess, which is not trusted"), ("DDIM", None), ("Net", None)]
)
def test_a_module_that_is_trusted_does_not_give_what_it_imports(lab, name, refusal):
    write(lab / "mylab" / "tools.py", "from subprocess import Popen\nfrom mylab.nets import DDIM, Net\n")
    config = {"network": {"_target_": "mylab.nets.Net", "helper": {"_target_": f"mylab.tools.{name}", "args": ["touch", "pwned"]}}}
    with allowing(()), trusting(["mylab"]):
        if refusal is None:
            check_roles(config, "file")
        else:
            with pytest.raises(UserError, match=f"^file: network.helper: _target_ mylab.tools.{name} is refused: {refusal}$"):
                check_roles(config, "file")
            with pytest.raises(UserError, match="is refused"):  # nothing of it is remembered
                check_roles(config, "file")


def test_a_package_of_yaml_files_that_breaks_is_one_line(command, lab, monkeypatch):
    monkeypatch.syspath_prepend(lab)
    write(lab / "broken" / "__init__.py", "raise RuntimeError('not today')")
    write(lab / "broken" / "conf" / "__init__.py", "")
    code, _, err = command("train", "hydra.searchpath=[pkg://broken.conf]")
    assert (code, err) == (
        2,
        "error: hydra.searchpath=[pkg://broken.conf]: importing a package fails with RuntimeError: not today\n",
    )


def test_an_optimizer_without_a_learning_rate_is_refused():
    class Steps(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {"step_size": 0.1})

    with pytest.raises(UserError, match=r"^optimizer: need one with a learning rate lr, and Steps has step_size$"):
        check_optimizer(Steps, None)


def test_a_program_of_ones_own_trusts_modules_too(command, lab, monkeypatch):
    assert command("train", *SMALL, *OWN, "hydra.run.dir=out")[0] == 0
    monkeypatch.setenv("ALPHABAR_CONFIG_HOME", str(lab / "other"))
    with pytest.raises(UserError, match=r"trust=\[mylab\]$"):
        alphabar.load("out", device="cpu")
    with pytest.raises(UserError, match=r"trust: need a list of texts, such as \['mylab'\], got 'mylab'"):
        alphabar.load("out", device="cpu", trust="mylab")
    for words in ({"trust": ["mylab"]}, {}):
        assert type(alphabar.load("out", device="cpu", **words).denoiser.network).__name__ == "Net"


def test_a_word_for_a_run_that_goes_on_is_recorded(command, lab, monkeypatch):
    assert command("train", *SMALL, *OWN, "hydra.run.dir=out")[0] == 0
    monkeypatch.setenv("ALPHABAR_CONFIG_HOME", str(lab / "other"))
    assert command("train", "resume=out", "trainer.max_steps=3", "trust=[mylab]")[::2] == (0, "")
    assert OmegaConf.load("out/config.yaml").trust == ["mylab"]
    assert runs.checkpoint("out")["config"]["trust"] == ["mylab"]
    monkeypatch.setenv("ALPHABAR_CONFIG_HOME", str(lab / "third"))  # a word in a file says nothing
    assert "trust=[mylab]" in command("train", "resume=out", "trainer.max_steps=4")[2]


def test_a_package_of_the_same_name_elsewhere_is_another_one(command, lab):
    """The checkpoint, the class and its arguments are the same: only the folder is somebody else's."""
    assert command("train", *SMALL, *OWN, "hydra.run.dir=out")[0] == 0
    forget()
    shutil.copytree(lab, lab / "gift")
    os.chdir(lab / "gift")
    sys.path.remove(str(lab))
    code, _, err = command("sample", "checkpoint=out", "num=2")
    assert (code, "trust=[mylab]" in err) == (2, True)
    assert not Path("imported").exists()


def test_stock_callbacks_of_ones_own_run_go_on_without_a_word(command, monkeypatch, tmp_path):
    own = "+callbacks.mine={_target_:lightning.pytorch.callbacks.ModelSummary,max_depth:1}"
    assert command("train", *runs.words(*runs.BRIEF, folder="out"), own)[0] == 0
    assert command("train", "resume=out", "trainer.max_steps=3", "callbacks.mine.max_depth=2")[::2] == (0, "")
    assert OmegaConf.load("out/config.yaml").callbacks.mine.max_depth == 2
    monkeypatch.setenv("ALPHABAR_CONFIG_HOME", str(tmp_path / "other"))
    code, _, err = command("train", "resume=out", "trainer.max_steps=4")
    assert (code, err.count("\n")) == (2, 1)
    assert "callbacks.mine: _target_ lightning.pytorch.callbacks.ModelSummary is refused" in err
    assert command("train", "resume=out", "trainer.max_steps=4", "~callbacks.mine")[::2] == (0, "")


def test_the_record_is_ones_own_and_says_so_if_it_cannot_be_kept(command, lab, monkeypatch):
    assert command("train", *SMALL, *OWN, "hydra.run.dir=out")[0] == 0
    (record,) = config_home().iterdir()
    assert (config_home().stat().st_mode & 0o777, record.stat().st_mode & 0o777) == (0o700, 0o600)
    (line,) = record.read_text().splitlines()
    assert line.endswith(" mylab.nets.Net")
    record.chmod(0o666)  # anybody may have written it
    code, _, err = command("sample", "checkpoint=out", "num=2")
    assert (code, "others can write it" in err) == (2, True)
    monkeypatch.setenv("ALPHABAR_CONFIG_HOME", str(write(lab / "file", "")))
    code, _, err = command("sample", "checkpoint=out", "num=2", "sampler.num_steps=2", "trust=[mylab]")
    assert (code, err) == (0, "file/known_classes cannot be written (File exists): trust=[...] will be needed each time\n")


def test_many_processes_note_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("ALPHABAR_CONFIG_HOME", str(tmp_path / "config"))
    entries = [(f"{number:064x}", f"mylab.Net{number}") for number in range(40)]
    children = [multiprocessing.get_context("fork").Process(target=remember, args=(entries[part::4],)) for part in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    lines = (tmp_path / "config" / "known_classes").read_text().splitlines()
    assert sorted(lines) == [" ".join(entry) for entry in entries]
    assert all(is_known(found) for found, _ in entries)


def test_a_folder_of_ones_own(command, lab):
    """Groups, help, advice, a sweep and an experiment of files that lie elsewhere than ours."""
    write(
        lab / "myconf/network/mynet.yaml", "# Two convolutions\n_target_: mylab.nets.Net\nchannels: ${space.channels}\nwidth: 3\n"
    )
    write(lab / "myconf/sampler/mine.yaml", "_target_: mylab.nets.MyDDIM\nnum_steps: 2\n")
    experiment = "# @package _global_\ndefaults:\n  - override /network: mynet\n  - override /sampler: mine\nnetwork: {width: 5}\n"
    write(lab / "myconf/experiment/mine.yaml", experiment)
    for option in ("--config-dir=myconf", f"hydra.searchpath=[file://{lab}/myconf]"):
        assert "mynet                    Two convolutions" in command("train", "--help", "network", option)[1]
        assert "Did you mean mynet?" in command("train", option, "network=mynett")[2]
        assert "network.widht: there is no key" in command("train", option, "network=mynet", "network.widht=3")[2].replace("=3", "")
    assert "width: 5" in command("train", "--config-dir=myconf", "experiment=mine", "--cfg=job", "--package=network")[1]
    small = [word for word in SMALL if not word.startswith("sampler.")]
    assert command("train", "--config-dir=myconf", *small, "experiment=mine", "hydra.run.dir=out")[::2] == (0, "")
    assert OmegaConf.load("out/config.yaml").sampler._target_ == "mylab.nets.MyDDIM"
    assert command("sample", "--config-dir=myconf", "checkpoint=out", "num=2", "sampler=mine")[::2] == (0, "")


def test_a_sweep_over_networks_of_ones_own(command, lab):
    """In this process; `test_launcher.py` shows that jobs get the options and words that say where the files lie."""
    write(lab / "myconf/network/mynet.yaml", "_target_: mylab.nets.Net\nchannels: ${space.channels}\nwidth: 3\n")
    words = ["hydra/launcher=basic", f"hydra.searchpath=[file://{lab}/myconf]", "network=mynet,simple_unet", *SMALL]
    assert command("train", "-m", *words, "hydra.sweep.dir=sweep")[::2] == (0, "")
    targets = [OmegaConf.load(f"sweep/{num}/config.yaml").network._target_ for num in (0, 1)]
    assert [target.rpartition(".")[2] for target in targets] == ["Net", "SimpleUNet"]


BAD = {
    "network._target_=nowhere.Net": "network: _target_ nowhere.Net: there is no module nowhere: it is neither installed nor in this folder",
    "network._target_=mylab.nowhere.Net": "network: _target_ mylab.nowhere.Net: there is no module mylab.nowhere",
    "network._target_=mylab.nets.Nett": "network: _target_ mylab.nets.Nett: there is no class Nett in mylab.nets. Did you mean Net?",
    "network._target_=mylab.nets.make_net": "network: _target_ mylab.nets.make_net is refused: need the name of a class, and it is a function",
    "network._target_=Net": "network: _target_ Net: need the dotted name of a class, such as package.module.Class",
    "network._target_=os.system": "network: _target_ os.system is refused: need the name of a class",
    "network._target_=broken.package.Net": "network: _target_ broken.package.Net needs the package no_such_package, which is not installed",
    "network._target_=broken.error.Net": "network: _target_ broken.error.Net: importing broken.error fails with ZeroDivisionError: division by zero",
    "network._target_=broken.syntax.Net": "network: _target_ broken.syntax.Net: importing broken.syntax fails with SyntaxError: ",
    "network._target_=torch.optim.Adam": "network: expected Module, got Adam",
    "network._target_=mylab.nets.Net": "network: Net needs 'width'",
    "network._target_=mylab.nets.Blind": "need a network that is called as network(x, label, cond), and Blind.forward takes (x)",
    "sampler._target_=mylab.nets.Net": "sampler: a subclass of Sampler goes there, and Net is none",
    "sampler._target_=alphabar.diffusion.samplers.Sampler": "sampler: Sampler is an interface without ",
    "schedule._target_=mylab.parts.Poly": "schedule: mylab.parts.Poly has no method sigma, which ContinuousSchedule asks for",
    "schedule._target_=mylab.parts.SetsLayer": "schedule: mylab.parts.SetsLayer.__init__ has to call super().__init__() first",
    "schedule._target_=mylab.parts.SetsNumber": "schedule: mylab.parts.SetsNumber.__init__ has to call super().__init__() first",
    "schedule._target_=mylab.parts.Breaks": "schedule: Breaks.__init__: KeyError: 'table' (mylab/parts.py, line 28)",
    "schedule._target_=mylab.parts.Raises": "schedule: Raises.alpha: AttributeError: 'Raises' object has no attribute 'speed' (mylab/parts.py, line 35)",
    "codec._target_=mylab.parts.Encode": "codec: mylab.parts.Encode has no method decode, forward, space and no property is_bounded, makes_images, which Codec asks for",
    "sampler._target_=mylab.parts.Fields": "sampler: mylab.parts.Fields has fields (num_steps) and is no dataclass: put @dataclass(frozen=True, kw_only=True) above the class",
    "sampler._target_=mylab.parts.Bare": "sampler: mylab.parts.Bare sets num_steps without a type, which changes nothing: write num_steps: TYPE = VALUE",
    "network._target_=mylab.parts.TimesLabel": "network: TimesLabel.forward: RuntimeError: The size of tensor a (8) must match the size of tensor b (2) at non-singleton dimension 3 (mylab/parts.py, line 43); it was given x float32 [2, 1, 8, 8], label float32 [2], cond None",
    "network._target_=mylab.parts.Pair": "error: network: need a network whose output is a tensor, Pair gives tuple",
    "sampler._target_=mylab.parts.TimesAlpha": "(mylab/parts.py, line 52); it was given x_t float32 [2, 1, 8, 8], t and s int64 [2], of which run.schedule(t) has the shape; run.schedule.at(t, x_t) has [2, 1, 1, 1], to multiply x_t with",
    "sampler._target_=mylab.parts.Wide": "sampler: Wide.step gives float64 [2, 1, 8, 8] for x_t float32 [2, 1, 8, 8]: need the same shape and dtype",
    "lr_scheduler._target_=torch.nn.ReLU": "lr_scheduler: expected LRSchedule or a node with _target_ and _partial_: true or null, got ReLU",
    "+callbacks.mine._target_=torch.nn.Identity": "callbacks.mine: a subclass of Callback goes there, and Identity is none",
    "data._target_=collections.OrderedDict": "data: a subclass of LightningDataModule goes there, and OrderedDict is none",
    "network._target_=mylab.parts.FailsInTraining": "error: network: FailsInTraining.forward: KeyError: 'train' (mylab/parts.py, line 88); it was given x",
    "network._target_=mylab.parts.FailsInEval": "error: network: FailsInTraining.forward: KeyError: 'eval' (mylab/parts.py, line 88)",
    "network._target_=mylab.parts.Thin": "error: network: need a network whose output is [2, 1, 8, 8], as the data,",
    "network._target_=mylab.parts.Lazy": "need layers whose sizes are given, and Lazy.body.weight is of a LazyConv2d",
    "+data.buckets=auto": "error: data.buckets: these images are used as they are, nothing is cropped; need data.buckets=null\n",
    "trust=mylab": "trust=mylab: need a list of modules, as in trust=[mylab]",
    "trust=['my lab']": "need a list of modules, as in trust=[mylab]",
}  # fmt: skip


@pytest.mark.parametrize("word", BAD)
def test_a_class_that_cannot_be_used_is_one_line(command, lab, word):
    write(lab / "broken/package.py", "import no_such_package")
    write(lab / "broken/error.py", "1 / 0")
    write(lab / "broken/syntax.py", "class Net(:")
    code, out, err = command("train", *SMALL, word)
    assert (code, out) == (2, ""), err
    assert BAD[word] in err
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert "Traceback" not in err
    assert not Path("outputs/train").exists()


CONDITIONS = {
    "+conditioner.name=caption": "conditioner: ByName.forward: KeyError: 'caption' (mylab/parts.py, line 64); it was given batch {label: int64 [2]}",
    "+conditioner.width=5": "conditioner: ByName makes {vector: float32 [2, 5]} of these data, and {vector: float32 [2, 4]} as its null condition: need the same names and widths",
    "conditioner._target_=mylab.parts.GivesTensor": "conditioner: GivesTensor.forward gives float32 [2, 4] for 2 images: need None, or tensors [2, ...] by their names, such as {vector: float32 [2, D]}",
    "conditioner._target_=mylab.parts.GivesLists": "conditioner: GivesLists.forward gives {vector: list} for 2 images: need None, or tensors [2, ...] by their names, such as {vector: float32 [2, D]}",
    "conditioner._target_=mylab.parts.GivesOne": "conditioner: GivesOne.forward gives {vector: float32 [1, 4]} for 2 images: need None, or tensors [2, ...] by their names, such as {vector: float32 [2, D]}",
    "conditioner._target_=mylab.parts.TakesBatch": "conditioner: need one that is called as conditioner(batch, share), TakesBatch.forward takes (batch)",
    "conditioning.vector=5": "objective: this network reads a vector of 5 numbers, here of shape [2, 5], and was given [2, 4]",
}  # fmt: skip


@pytest.mark.parametrize("word", CONDITIONS)
def test_a_condition_that_fits_neither_data_nor_network_is_one_line(command, lab, word):
    own = ["conditioner._target_=mylab.parts.ByName", *([] if "name" in word else ["+conditioner.name=label"])]
    code, _, err = command("train", *SMALL, *own, "conditioning.vector=4", word)
    assert (code, err) == (2, f"error: {CONDITIONS[word]}\n")
    assert not list(Path("outputs").glob("train/*"))


def test_an_error_in_the_first_step_leaves_no_folder(command, lab):
    with pytest.raises(KeyError, match="gradients"):
        command("train", *SMALL, "network._target_=mylab.parts.FailsWithGradients", "hydra.run.dir=out")
    assert not Path("out").exists()
