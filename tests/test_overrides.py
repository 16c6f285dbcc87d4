"""The arguments of a command line: those that reach `main`, those that get one clear line each, and how they are quoted."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from alphabar.cli import command as cli
from alphabar.cli import exit_status
from alphabar.cli.composition.hydra_app import App
from alphabar.cli.composition.overrides import choice_sweep_values, quoted, repair_lightning_quotes
from alphabar.cli.composition.unused_keys import referenced_keys
from alphabar.config.interpolation import unresolved_container
from runs import ROOT, say

pytestmark = pytest.mark.usefixtures("shell")


@pytest.fixture
def own_files(tmp_path):
    """A folder of somebody's own YAML files: a main one, and an experiment."""
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "extras").mkdir()
    (tmp_path / "own" / "extras" / "large.yaml").write_text("batch: 3")
    (tmp_path / "own" / "mine.yaml").write_text("defaults: [train, _self_]\nextra: 1\nname: mine")
    (tmp_path / "own" / "experiment" / "wide.yaml").write_text("# @package _global_\nnetwork: {base_channels: 24}")
    return tmp_path / "own"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--config-dir", "own", "experiment=wid"],
            "experiment=wid: no such choice. Did you mean wide? experiment takes: autoencoder",
        ),
        (["hydra.searchpath=[file://own]", "experiment=wid"], "Did you mean wide?"),
        (["-m", "--config-dir", "own", "experiment=wide", "sead=1,2"], "sead=1,2: there is no key sead. Did you mean seed?"),
        (["--config-dir", "own", "--config-name", "mine", "extro=2"], "extro=2: there is no key extro. Did you mean extra?"),
        (
            ["--config-dir=own", "-cn", "mine", "network=simple_unet", "learned_variance=true"],
            "nothing takes learned_variance with network=simple_unet",
        ),
        (["--config-dir", "nowhere", "seed=1"], "--config-dir=nowhere: there is no such folder"),
        (
            ["--config-dir", "own", "extras=large"],
            "extras=large: this command has no group extras by itself; to add it: +extras=large",
        ),
        (["hydra.searchpath=[file://nowhere]"], "hydra.searchpath: file://nowhere: there is no such folder"),
        (["hydra.searchpath=[pkg://nowhere]"], "pkg://nowhere: there is no package of that name with an __init__.py"),
        (["--config-dir", "own", "-cn", "yours"], "--config-name=yours: there is no yours.yaml in "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_overrides_are_checked_against_the_files_on_the_search_path(monkeypatch, capfd, own_files, words, line):
    assert say(monkeypatch, *words) == exit_status.BAD_INPUT
    (message,) = capfd.readouterr().err.splitlines()
    assert line in message


@pytest.mark.parametrize(
    ("content", "words", "line"),
    [
        ("_target_: [mylab.Wide\nwidth: 1\n", ["experiment=wide"], "line 2: not YAML (expected ',' or ']', but got ':')"),
        ("a: 1\na: 2\n", ["-m", "experiment=wide", "seed=1,2"], "line 2: not YAML (found duplicate key a)"),
        ("width: ${oc.env:HOME\n", ["--cfg=job", "experiment=wide"], "not YAML (missing BRACE_CLOSE at"),
        ("- a\n- b\n", ["--help", "experiment"], "need keys with values, such as width: 64, got a list"),
        ("wide\n", ["--cfg=job", "experiment=wide"], "need keys with values, such as width: 64, got the text wide"),
        ("# Wide\n# \udce9t\udce9\n", ["--help", "experiment"], "line 2: it is no text in UTF-8"),
    ],
)
def test_a_yaml_file_that_cannot_be_used_is_one_line(monkeypatch, capfd, own_files, content, words, line):
    (own_files / "experiment" / "wide.yaml").write_bytes(content.encode(errors="surrogateescape"))
    assert say(monkeypatch, "--config-dir=own", *words) == exit_status.BAD_INPUT
    assert capfd.readouterr().err.startswith(f"error: own/experiment/wide.yaml: {line}")


def test_a_yaml_file_of_a_package_that_cannot_be_used_is_one_line(monkeypatch, capfd, own_files):
    """It is if it is chosen."""
    (own_files / "experiment" / "wide.yaml").write_text("- a")
    (own_files / "__init__.py").touch()
    monkeypatch.syspath_prepend(own_files.parent)
    for words, code in ((["experiment=wide"], exit_status.BAD_INPUT), (["seed=1"], 0)):
        assert say(monkeypatch, "hydra.searchpath=[pkg://own]", *words) == code
    assert capfd.readouterr().err == "error: pkg://own/experiment/wide.yaml: need keys with values, such as width: 64, got a list\n"


def test_what_is_taken_from_the_choice_before_is_one_line(monkeypatch, capfd):
    """A setting of another class, and the method of a preset that a schedule takes the place of."""
    heun = "sampler._target_=alphabar.diffusion.samplers.heun.Heun"
    seen = []
    assert (
        say(monkeypatch, "preset=laptop", "schedule=cosine", heun, main=lambda cfg: seen.append(cfg.sampler.num_steps) or {}) == 0
    )
    assert say(monkeypatch, heun, "sampler.num_steps=3", main=lambda cfg: seen.append(cfg.sampler.num_steps) or {}) == 0
    assert seen == [50, 3]
    method, kept = capfd.readouterr().err.splitlines()
    assert method.startswith("method: ddpm, since schedule is chosen; preset=laptop has method=flow, with a schedule of its own: ")
    place = "sampler.num_steps"
    assert kept == f"{place}=50 is that of the replaced class; the new one has 18 by itself: {place}=... says which"


def test_a_group_that_no_command_has_is_one_line(monkeypatch, capfd, own_files):
    """Unless something names it, or it has no objects."""
    for group in ("metrics", "schedulers", "chosen", "listed"):
        (own_files / group).mkdir()
        (own_files / group / "mine.yaml").write_text("_target_: mylab.Mine")
    (own_files / "experiment" / "wide.yaml").write_text("# @package _global_\ndefaults:\n  - /listed@mine: mine")
    assert say(monkeypatch, "--help", "--config-dir=own", "+chosen=mine") == 0
    assert capfd.readouterr().err.splitlines() == [
        "own/metrics: no command has a group metrics, and nothing takes these files. Did you mean statistics?",
        "own/schedulers: no command has a group schedulers, and nothing takes these files. Did you mean schedule?",
    ]


def test_a_file_in_a_group_of_another_kind_is_what_the_line_is_about(monkeypatch, capfd, own_files):
    """The keys that it does not bring are not."""
    (own_files / "metric").mkdir()
    (own_files / "metric" / "sharpness.yaml").write_text("sharpness: {_target_: mylab.Sharpness}")
    words = ("--config-dir=own", "checkpoint=here", "metric=sharpness", "num=70")
    assert say(monkeypatch, *words, app=App(ROOT / "conf", "evaluate")) == exit_status.BAD_INPUT
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: metric: need an object, a node with _target_, got {sharpness: ")
    assert line.endswith("; such objects by their names go into one of callbacks, logger, statistics")


def test_files_on_the_search_path_are_composed_and_shown(monkeypatch, capfd, own_files):
    seen = []
    words = ("--config-dir", "own", "--config-name", "mine", "experiment=wide", "extra=2")
    assert say(monkeypatch, *words, main=lambda cfg: seen.append((cfg.name, cfg.extra, cfg.network.base_channels)) or {}) == 0
    assert seen == [("mine", 2, 24)]
    assert say(monkeypatch, "--help", "--config-dir", "own") == 0
    assert "wide" in capfd.readouterr().out
    assert say(monkeypatch, "--cfg", "job", "--resolve", "--config-dir", "own", "-cn", "mine") == 0
    assert "extra: 1" in capfd.readouterr().out


def test_files_of_an_editor_beside_the_yaml_files_do_no_harm(monkeypatch, own_files):
    (own_files / ".#mine.yaml").symlink_to("me@host.1")
    (own_files / "old.yaml").write_bytes(b"\xff")
    seen = []
    assert say(monkeypatch, "--config-dir", "own", "experiment=wide", main=lambda cfg: seen.append(cfg.seed) or {}) == 0
    assert seen == [0]


def test_all_bad_overrides_are_named_at_once(monkeypatch, capfd):
    assert say(monkeypatch, "sead=1", "schedule=cosin", "trainer.device=2", "network") == 2
    assert [line.split(":")[1] for line in capfd.readouterr().err.splitlines()] == [
        " network",
        " sead=1",
        " schedule=cosin",
        " trainer.device=2",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["schedule=cosine", "trainer.devices=4", "optimizer.lr=1e-4"],
        ["+trainer.limit_val_batches=0"],
        ["++trainer.limit_val_batches=0", "++seed=3"],
        ["~callbacks.film"],
        ["~callbacks"],
        ["callbacks=null", "logger=null"],
        ["experiment=null"],
        ["callbacks.fid=null"],
        ["+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor"],
        ["+callbacks.lr={_target_:lightning.pytorch.callbacks.LearningRateMonitor}"],
        ['name="a=b, c"', "data=folder", 'data.root="~/my pictures"'],
        ["seed=0", "-r", "schedule=sigmoid"],
        ["ema.decay=0.5", "name=mine", "learned_variance=false", "features=none"],
        ["ema=power", "recipe=one_gpu"],
    ],
    ids=" ".join,
)
def test_a_good_command_line_reaches_main(monkeypatch, words):
    seen = []
    assert say(monkeypatch, *words, main=lambda cfg: seen.append(cfg) or {}) == 0
    (cfg,) = seen
    assert Path(cfg.run_dir).is_absolute()
    assert "hydra" not in cfg


@pytest.mark.parametrize("words", [["callbacks=null", "logger=null"], ["~callbacks", "~logger"]], ids=" ".join)
def test_dropped_callbacks_and_loggers_are_none(monkeypatch, words):
    seen = []
    assert say(monkeypatch, *words, main=lambda cfg: seen.append((cfg.callbacks, cfg.logger)) or {}) == 0
    assert seen == [({}, {})]


def test_callbacks_may_be_those_of_the_command_line_alone(monkeypatch):
    seen = []
    own = "+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor"
    assert say(monkeypatch, "callbacks=null", own, main=lambda cfg: seen.extend(cfg.callbacks) or {}) == 0
    assert seen == ["lr"]


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["data=folder", "data.root=2024"], "data.root", "2024"),
        (["data=folder", "++data.root=2024"], "data.root", "2024"),
        (["data=folder", "data.root=1e3"], "data.root", "1e3"),
        (["data=torchvision", "data.name=0x10", "data.root=true"], "data.root", "true"),
        (["name=1e3"], "name", "1e3"),
        (["name=2024_01"], "name", "2024_01"),
        (["name=null"], "name", None),
        (["trainer.max_steps=1e5"], "trainer.max_steps", 100_000),
        (["seed=1e1"], "seed", 10),
        (["name=${seed}"], "name", 0),
        (["optimizer.lr=1"], "optimizer.lr", 1),
        (["+trainer.limit_val_batches=1e0"], "trainer.limit_val_batches", 1.0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_values_become_what_the_constructor_asks_for(monkeypatch, words, key, value):
    seen = []
    assert say(monkeypatch, *words, main=lambda cfg: seen.append(OmegaConf.select(cfg, key)) or {}) == 0
    assert seen == [value]
    assert type(seen[0]) is type(value)


@pytest.mark.parametrize(("sweep", "texts"), [("2024_01,2024_02", {"2024_01", "2024_02"}), ("007,choice", {"007", "choice"})])
def test_whole_numbers_of_a_sweep_are_texts_too(monkeypatch, sweep, texts):
    seen = set()
    words = ("-m", "hydra/launcher=basic", "data=folder", f"data.root={sweep}")
    assert say(monkeypatch, *words, main=lambda cfg: seen.add(cfg.data.root) or {}) == 0
    assert seen == texts


def test_an_argument_of_a_part_may_be_called_stages(monkeypatch, capfd):
    assert say(monkeypatch, "+network.stages=[conv,attention]", "+network.checkpoint=often") == exit_status.BAD_INPUT
    assert "no such file" not in capfd.readouterr().err  # only that the network of today has no such arguments


@pytest.mark.parametrize("sweep", ["1e3,2e3", "choice(1e3,2e3)", "1e3, 2e3"])
def test_texts_of_a_sweep_are_texts(monkeypatch, sweep):
    seen = []
    words = ("-m", "hydra/launcher=basic", "data=folder", f"name={sweep}", f"data.root={sweep}", "optimizer.lr=1e-3")
    assert say(monkeypatch, *words, main=lambda cfg: seen.append((cfg.name, cfg.data.root, cfg.optimizer.lr)) or {}) == 0
    assert len(seen) == 4
    assert {name for name, _, _ in seen} == {root for _, root, _ in seen} == {"1e3", "2e3"}
    assert {lr for _, _, lr in seen} == {1e-3}


def test_values_of_a_sweep_may_have_commas_in_them():
    assert choice_sweep_values("a='x,1',[1,2],2e3") == ["'x,1'", "[1,2]", "2e3"]
    assert (
        choice_sweep_values("a=1e3,choice(2)")
        == choice_sweep_values("a=[1,2]")
        == choice_sweep_values("a=1e3")
        == choice_sweep_values("a=range(1,3)")
        == []
    )


def test_a_run_folder_stands_for_its_last_checkpoint(monkeypatch, capfd, tmp_path):
    for name in ("a", "b", "c=d"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.ckpt").touch()
    seen = []
    words = ("checkpoint='c=d'", "stages=[a,other.ckpt]", "guidance=autoguidance", "guidance.checkpoint=b")
    app = App(ROOT / "conf", "sample")
    main = lambda cfg: seen.append((cfg.checkpoint, cfg.stages, cfg.guidance.checkpoint)) or {}  # noqa: E731
    assert say(monkeypatch, *words, main=main, app=app) == 0
    assert seen == [("c=d/checkpoints/last.ckpt", ["a/checkpoints/last.ckpt", "other.ckpt"], "b/checkpoints/last.ckpt")]
    (tmp_path / "a").rename(tmp_path / "12")
    monkeypatch.setenv("CHECKPOINT", "b")
    for word, found in {"12": "12", "${oc.env:CHECKPOINT}": "b"}.items():
        main = lambda cfg: seen.append((cfg.checkpoint, cfg.inference.checkpoint)) or {}  # noqa: E731
        assert say(monkeypatch, f"checkpoint={word}", main=main, app=app) == 0
        assert seen[-1] == (f"{found}/checkpoints/last.ckpt",) * 2
    assert say(monkeypatch, "checkpoint=empty", app=app) == exit_status.BAD_INPUT
    assert "checkpoint=empty: a folder without checkpoints/last.ckpt" in capfd.readouterr().err


def test_in_a_sweep_only_the_job_in_which_a_word_does_nothing_is_refused(monkeypatch, capfd):
    seen = []
    words = ("-m", "hydra/launcher=basic", "network=unet_tiny,simple_unet", "learned_variance=true")
    assert say(monkeypatch, *words, main=lambda cfg: seen.append(cfg.learned_variance) or {}) == exit_status.BAD_INPUT
    assert seen == [True]
    assert "nothing takes learned_variance with network=simple_unet" in capfd.readouterr().err


@pytest.mark.parametrize(("name", "group"), [("sample", "task"), ("evaluate", "metric")])
def test_whatever_is_done_with_a_checkpoint_takes_every_key_of_its_command(name, group):
    """Those are not asked for at run time; `run_dir` is filled in, and `trust` is read before anything is built."""
    app = App(ROOT / "conf", name)
    for choice in app.groups[group]:
        cfg = app.compose([f"{group}={choice}"])
        taken = referenced_keys([unresolved_container(cfg[group]), unresolved_container(cfg.inference)])
        keys = {str(key) for file in (name, "inference") for key in OmegaConf.load(ROOT / "conf" / f"{file}.yaml")}
        assert keys - {"defaults", "hydra", "trust"} <= taken, choice


def test_overrides_reach_main_as_they_were_given(monkeypatch):
    seen = []
    say(monkeypatch, "seed=3", "hydra.verbose=false", "~callbacks.film", main=lambda cfg: seen.extend(cli.task_overrides()) or {})
    assert seen == ["seed=3", "~callbacks.film"]


def test_options_may_stand_between_overrides(monkeypatch, capfd):
    assert say(monkeypatch, "schedule=cosine", "--cfg", "job", "seed=5", "-p", "schedule") == 0
    assert "CosineSchedule" in capfd.readouterr().out


NASTY = ["a b", "a=b,c", "it's", 'a"b', "a\\", 'a\\"b', "${x}", "\\${x}", "{a:1}", "[1]", "null", "é漢", "%s", "~/x", "(", "#", ""]


@pytest.mark.parametrize("value", NASTY)
def test_quoted_values_come_back_unchanged(value):
    override = OverridesParser.create().parse_override(f"key={quoted(value)}")
    assert OmegaConf.create({"key": override.value()}).key == value


@pytest.mark.parametrize("value", NASTY)
def test_the_folder_that_lightning_hands_to_its_processes_can_be_read(value):
    words = ["seed=1", f'hydra.run.dir="{value}"', "hydra.job.name=train_ddp_process_1", "hydra.output_subdir=null"]
    (before, read, *after) = repair_lightning_quotes(words)
    assert [before, *after] == [words[0], *words[2:]]
    assert OmegaConf.create({"key": OverridesParser.create().parse_override(read).value()}).key == value


def test_overrides_of_the_user_are_not_quoted_again():
    words = ['hydra.run.dir="a\\"b"', "seed=1"]
    assert repair_lightning_quotes(words) == words
