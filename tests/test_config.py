"""`check`: valid configurations, messages about invalid ones, and that all of conf/ passes."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from omegaconf import DictConfig, OmegaConf

from alphabar.cli.composition import preset as preset_module
from alphabar.cli.composition.hydra_app import App
from alphabar.cli.composition.resolvers import register
from alphabar.config.build import ConfigError, build, check
from alphabar.config.interpolation import resolved_container, unresolved_container
from alphabar.config.roles import check_roles
from runs import ROOT

GROUPS = App(ROOT / "conf", "train").groups
pytestmark = pytest.mark.usefixtures("toys")


def lines(text: str, **choices: list[str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(OmegaConf.create(text), choices)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    "arguments",
    [
        "{width: 1}",
        "{width: 1, height: 2}",
        "{width: 1, height: 1e-4}",
        "{width: 1, kind: hard, maybe: null, sizes: [1], flag: true, name: '3'}",
        "{width: 1, maybe: 3, leaf: {_target_: alphabar.toys.Leaf}}",
        "{width: 1, leaves: {a: {_target_: alphabar.toys.Leaf}}, more: [{_target_: alphabar.toys.Leaf}]}",
        "{width: 1, make: {_target_: alphabar.toys.Leaf, _partial_: true}}",
        "{width: 1, anything: {x: [1, y]}}",
    ],
)
def test_what_fits_passes(arguments):
    check(OmegaConf.create("{tree: {_target_: alphabar.toys.Tree, " + arguments[1:] + "}"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("width: 1, heigth: 3", "tree: Tree has no argument 'heigth'. Did you mean 'height'?"),
        ("height: 3", "tree: Tree needs 'width'"),
        ("width: '???'", "tree.width: missing, give tree.width=..."),
        ("width: fast", "tree.width: expected int, got 'fast'"),
        ("width: 1.5", "tree.width: expected int, got 1.5"),
        ("width: true", "tree.width: expected int, got true"),
        ("width: null", "tree.width: expected int, got null"),
        ("width: 1, height: true", "tree.height: expected float, got true"),
        ("width: 1, name: 3", "tree.name: expected str, got 3"),
        ("width: 1, flag: 1", "tree.flag: expected bool, got 1"),
        ("width: 1, flag: 'yes'", "tree.flag: expected bool, got 'yes'"),
        ("width: 1, kind: sofd", "tree.kind: expected one of soft, hard, got 'sofd'. Did you mean soft?"),
        ("width: 1, maybe: x", "tree.maybe: expected int or null, got 'x'"),
        ("width: 1, sizes: [1, x]", "tree.sizes: expected a list of int, got [1, 'x']"),
        ("width: 1, sizes: 3", "tree.sizes: expected a list of int, got 3"),
        ("width: 1, sizes: abc", "tree.sizes: expected a list of int, got 'abc'"),
        ("width: 1, leaf: green", "tree.leaf: expected Leaf or null, got 'green'"),
        ("width: 1, leaf: {x: 1}", "tree.leaf: expected Leaf or null, got {x: 1}"),
        (
            "width: 1, leaf: {_target_: alphabar.diffusion.samplers.ddim.DDIM}",
            "tree.leaf: expected Leaf or null, got DDIM",
        ),
        (
            "width: 1, leaf: {_target_: alphabar.toys.Leaf, _partial_: true}",
            "tree.leaf: expected Leaf or null, got Leaf with _partial_: true",
        ),
        ("width: 1, leaves: {a: 3}", "tree.leaves: expected a mapping to Leaf, got {a: 3}"),
        (
            "width: 1, make: {_target_: alphabar.toys.Leaf}",
            "tree.make: expected a node with _target_ and _partial_: true or null, got Leaf",
        ),
        (
            "width: 1, make: {_target_: alphabar.diffusion.samplers.ddim.DDIM, _partial_: true}",
            "tree.make: expected a node with _target_ and _partial_: true or null, got DDIM with _partial_: true",
        ),
        ("width: 1, _args_: [1]", "tree: _args_ is not supported, only _target_ and _partial_"),
        ("width: '${nope}'", "tree.width: Interpolation key 'nope' not found"),
    ],
    ids=lambda value: value[:40],
)
def test_what_does_not_fit_is_one_line_with_its_path(arguments, line):
    assert lines("{tree: {_target_: alphabar.toys.Tree, " + arguments + "}}") == [line]


def test_all_problems_are_reported_at_once():
    found = lines("{a: {_target_: alphabar.toys.Tree, widht: 1, flag: x}, b: {_target_: alphabar.toys.Tree, width: x}}")
    assert found == [
        "a: Tree has no argument 'widht'. Did you mean 'width'?",
        "a.flag: expected bool, got 'x'",
        "a: Tree needs 'width'",
        "b.width: expected int, got 'x'",
    ]


def test_what_is_used_twice_is_reported_once_where_it_is_written():
    found = lines(
        """
        leaf: {_target_: alphabar.toys.Leaf, colour: red}
        width: wide
        first: {_target_: alphabar.toys.Tree, leaf: '${leaf}', width: '${width}'}
        second: {_target_: alphabar.toys.Tree, leaf: '${leaf}', width: '${width}', make: '${first.leaf}'}
        """
    )
    assert found == [
        "leaf: Leaf has no argument 'colour'. It takes none",
        "width: expected int, got 'wide'",
        "leaf: expected a node with _target_ and _partial_: true or null, got Leaf",
    ]


def test_what_is_filled_in_later_is_not_judged():
    check(OmegaConf.create("{shape: {width: '???'}, tree: {_target_: alphabar.toys.Tree, width: '${shape.width}'}}"))


def test_a_group_is_named_with_its_choices():
    (line,) = lines("{tree: {_target_: alphabar.toys.Tree, width: 1, leaf: straight}}", leaf=["maple", "oak"])
    assert line == "tree.leaf: expected Leaf or null, got 'straight' (leaf=... takes: maple, oak)"


def test_an_interface_is_not_an_implementation():
    (line,) = lines("{sampler: {_target_: alphabar.diffusion.samplers.Sampler, num_steps: 3}}")
    assert line == "sampler: Sampler is an interface without step: name one of its implementations"


def test_a_root_node_is_checked_and_built():
    cfg = OmegaConf.create("{_target_: alphabar.toys.Tree, width: 0}")
    check(cfg)
    with pytest.raises(ConfigError, match=r"^need width >= 1, got width=0$"):
        build(cfg)
    assert lines("{_target_: alphabar.toys.Tree, width: x}") == ["width: expected int, got 'x'"]


def test_library_constructors_are_judged_as_far_as_they_can_be():
    found = lines(
        """
        optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: fast, momentum: 1}
        trainer: {_target_: lightning.pytorch.Trainer, _partial_: true, device: 3, max_steps: 1.5, precision: bf16-mixed, devices: auto}
        layer: {_target_: torch.nn.Linear, in_features: 1}
        """
    )
    assert found[0] == "optimizer.lr: expected float, got 'fast'"
    assert found[1].startswith("optimizer: Adam has no argument 'momentum'")
    assert found[2:] == [
        "trainer: Trainer has no argument 'device'. Did you mean 'devices'?",
        "trainer.max_steps: expected int, got 1.5",
        "layer: Linear needs 'out_features'",
    ]


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.hub.load",
        "builtins.getattr",
        "os.system",
        "subprocess.Popen",
        "hydra.utils.instantiate",
        "lightning.pytorch.cli.LightningCLI",
        "alphabarx.Tree",
        "alphabar",
        "3",
    ],
)
def test_a_foreign_target_is_refused_wherever_it_stands(target):
    text = "{model: {a: [{_target_: alphabar.toys.Tree, width: 1, anything: {_target_: '" + target + "', f: x}}]}}"
    (line,) = lines(text)
    assert line.startswith("model.a[0].anything: _target_")
    with pytest.raises(ConfigError, match=r"^model.a\[0\].anything: _target_"):
        build(OmegaConf.create(text).model, "model")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("alphabar.toys.os.system", "there is no module"),
        ("alphabar.toys.Path", "there is no class Path"),
        ("alphabar.toys.os", "is refused"),
        ("alphabar.toys.function", "is refused"),
        ("alphabar.toys.Tree.__init__", "there is no module"),
        ("alphabar.runs.folders.run_dir.Path", "is refused"),
        ("alphabar.config.build.partial", "is refused"),
        ("torch.nn.init.constant_", "is refused"),
        ("alphabar.toys.Leef", "there is no class Leef in alphabar.toys. Did you mean Leaf?"),
        ("alphabar.nowhere.Leaf", "there is no module alphabar.nowhere"),
        ("alphabar..toys.Leaf", "there is no module"),
    ],
)
def test_an_allowed_name_must_lead_to_a_class_of_that_place(target, reason):
    (line,) = lines("{x: {_target_: " + target + "}}")
    assert line.startswith("x: ")
    assert reason in line


def test_nothing_is_imported_when_something_is_refused(tmp_path):
    (tmp_path / "evil.py").write_text("print('imported')")
    code = """
import sys
from omegaconf import OmegaConf
from alphabar.config.build import check, build
cfg = OmegaConf.create({"a": {"_target_": "torch.nn.Linear", "x": {"_target_": "evil.Thing"}}})
for act in (lambda: check(cfg), lambda: build(cfg.a)):
    try:
        act()
    except ValueError as error:
        print(error)
print("torch" in sys.modules, "evil" in sys.modules)
"""
    paths = os.pathsep.join([str(ROOT / "src"), str(tmp_path)])
    env = os.environ | {"PYTHONPATH": paths}
    output = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    *refusals, modules = output.splitlines()
    assert [line.split(" is refused")[0] for line in refusals] == ["a.x: _target_ evil.Thing"] * 2
    assert modules == "False False"


def choices_of(command: str) -> list[tuple[str, str, str]]:
    """Returns (command, group, choice) for every YAML file that the command can choose."""
    app = App(ROOT / "conf", command)
    chosen = app.compose([]).hydra.runtime.choices
    groups = {group: names for group, names in app.groups.items() if group.split("/")[0] in chosen}
    return [(command, group, name) for group, names in groups.items() for name in names]


STAND_INS = {"data._target_": "alphabar.data.sources.digits.Digits", "data.dataset._target_": "torch.nn.ModuleList"}


def completed(cfg: DictConfig) -> DictConfig:
    """Returns the configuration with values in the place of those that a user has to give."""
    for _ in range(3):
        try:
            check(cfg, GROUPS)
        except ConfigError as error:
            missing = re.findall(r"^(\S+): missing, give \1=", str(error), re.MULTILINE)
            missing += re.findall(r"^(\S+): expected str, got null$", str(error), re.MULTILINE)
            wrong = re.findall(r"^(\S+): expected int, got 'x'$", str(error), re.MULTILINE)
            if not missing + wrong:
                raise
            for keys, value in ((missing, "x"), (wrong, 1)):
                for key in keys:
                    OmegaConf.update(cfg, key, STAND_INS.get(key, value))
    return cfg


register()


# Groups whose choices bring along those of others, take some away, or are for one kind of module: one at a time.
ALONE = ("data", "debug", "experiment", "lora", "method", "metric", "preset")


def rows(command: str) -> list[list[str]]:
    """Returns overrides in which every choice of every group of the command is made once; most of them together with others."""
    words: dict[str, list[str]] = {}
    for _, group, choice in choices_of(command):
        name, _, folder = group.partition("/")
        words.setdefault(name, []).append(f"{name}={folder}/{choice}" if folder else f"{name}={choice}")
    together = [each for group, each in words.items() if group not in ALONE]
    single = [[word] for group, each in words.items() if group in ALONE for word in each]
    return single + [[each[row % len(each)] for each in together] for row in range(max(map(len, together)))]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param(command, words, id=f"{command} {words[0]}")
        for command in ("train", "sample", "evaluate", "prepare")
        for words in rows(command)
    ],
)
def test_every_choice_of_every_group_passes_the_check(command, words):
    """A file that is added is found here: a dataset, an experiment, a preset."""
    cfg = App(ROOT / "conf", command).compose(words)
    cfg = completed(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
    check(cfg, GROUPS)
    if command == "train":  # its configuration is stored, and every class in it has a role
        check_roles(resolved_container(cfg), "config.yaml")


def choices(*words: str) -> dict[str, str]:
    return dict(App(ROOT / "conf", "train").compose(list(words)).hydra.runtime.choices)


@pytest.mark.parametrize(
    ("words", "gpu", "preset", "network", "features", "recipe"),
    [
        ([], True, "digits", "unet_tiny", "classifier", "digits"),
        (["data=folder"], True, "one_gpu", "unet_small", "selfsup", "one_gpu"),
        (["data=folder"], False, "laptop", "unet_light", "selfsup", "laptop"),
        (["data=huggingface"], False, "laptop", "unet_light", "selfsup", "laptop"),
        (["data=torchvision"], True, "one_gpu", "unet_small", "classifier", "one_gpu"),
        (["data=torchvision"], False, "laptop", "unet_light", "classifier", "laptop"),
        (["preset=cluster"], False, "cluster", "unet_cifar10", "classifier", "cluster"),
        (["data=folder", "preset=digits"], True, "digits", "unet_tiny", "selfsup", "digits"),
        (["data=folder", "network=dit_tiny", "recipe=digits"], True, "one_gpu", "dit_tiny", "selfsup", "digits"),
        (["experiment=cifar10"], False, "one_gpu", "unet_cifar10", "inception", "one_gpu"),
        (["experiment=cifar10", "data=folder"], False, "one_gpu", "unet_cifar10", "inception", "one_gpu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_data_and_machine_bring_the_preset_that_suits_them(monkeypatch, words, gpu, preset, network, features, recipe):
    monkeypatch.setattr(preset_module, "has_gpu", lambda: gpu)
    chosen = choices(*words)
    assert [chosen[group] for group in ("preset", "network", "features", "recipe")] == [preset, network, features, recipe]


@pytest.mark.parametrize(
    "experiment",
    [name for name in App(ROOT / "conf", "train").choices()["experiment"] if not name.startswith("smoke/")],
)
def test_an_experiment_is_the_same_on_every_machine(monkeypatch, experiment):
    found = []
    for gpu in (True, False):
        monkeypatch.setattr(preset_module, "has_gpu", lambda gpu=gpu: gpu)
        found.append(choices(f"experiment={experiment}"))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("words", "gpu", "added"),
    [
        ([], False, []),
        (["data=folder", "network.base_channels=8"], False, ["method=flow"]),
        (["data=folder", "resume=auto"], False, ["method=flow"]),
        (["preset=laptop"], True, ["method=flow"]),
        (["data=folder"], True, []),
        (["data=folder", "preset=one_gpu"], False, []),
        (["data=folder", "method=ddpm"], False, []),
        (["data=folder", "schedule=cosine"], False, []),
        (["data=folder", "++schedule.beta_end=0.03"], False, []),
        (["data=folder", "sampler.num_steps=10"], False, ["method=flow"]),
        (["data=digits,folder"], False, []),
        (["experiment=cascade_base"], False, []),
        (["resume=run"], False, []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_laptop_takes_the_method_of_few_steps_where_nobody_chooses_one(monkeypatch, words, gpu, added):
    monkeypatch.setattr(preset_module, "has_gpu", lambda: gpu)
    assert preset_module.method_of_preset(App(ROOT / "conf", "train"), words) == added
    assert preset_module.method_of_preset(App(ROOT / "conf", "sample"), words) == []


def test_the_groups_that_the_method_of_a_laptop_chooses_are_known():
    defaults = OmegaConf.load(ROOT / "conf/method" / f"{preset_module.LAPTOP_METHOD}.yaml").defaults
    assert {str(group).removeprefix("override /") for part in defaults for group in part} == preset_module.METHOD_GROUPS


@pytest.mark.parametrize(("resolution", "size"), [(8, 64), (28, 32), (32, 32), (64, 8), (256, 8), (None, 32), ("abc", 32)])
def test_the_batch_of_a_cpu_follows_from_the_size_of_the_images(resolution, size):
    assert preset_module.laptop_batch_size(resolution) == size


def test_data_of_ones_own_need_no_preset_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr(preset_module, "has_gpu", lambda: True)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(tmp_path / "conf/data/digits.yaml", tmp_path / "conf/data/mine.yaml")
    chosen = App(tmp_path / "conf", "train").compose(["data=mine"]).hydra.runtime.choices
    assert (chosen["preset"], chosen["recipe"]) == ("one_gpu", "one_gpu")


def test_data_mean_the_same_in_every_command():
    words = ["data=folder", "data.root=x", "seed=5"]
    train, evaluate = (unresolved_container(App(ROOT / "conf", name).compose(words).data) for name in ("train", "evaluate"))
    assert {**train, "batch_size": None} == {**evaluate, "batch_size": None}  # the recipe's, which evaluation has no use for
