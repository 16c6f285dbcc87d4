"""The groups that change how a run goes, not what it trains: paths, debug, profiler; and what a run records of its choices."""

from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import runs
from alphabar.cli.composition.hydra_app import App
from alphabar.cli.composition.resolvers import register
from alphabar.cli.composition.usage import usage
from alphabar.config.interpolation import unresolved_container

register()


@pytest.mark.parametrize("name", ["train", "sample", "evaluate"])
def test_one_key_moves_everything_that_a_command_writes(name):
    """Runs, sweeps and caches: nothing in the configuration names the folder `outputs` but paths.outputs."""
    app = App(runs.ROOT / "conf", name)
    words = ["paths.outputs=/scratch/me", *(["conditioner=text", "codec=autoencoder", "codec.name=x"] if name == "train" else [])]
    cfg = app.compose(words)
    HydraConfig.instance().set_config(cfg)
    assert cfg.hydra.run.dir.startswith(f"/scratch/me/{name}/")
    assert cfg.hydra.sweep.dir.startswith("/scratch/me/sweeps/")
    for node in ("features", "conditioner", "codec"):
        assert OmegaConf.select(cfg, f"{node}.cache_dir", default="/scratch/me/cache/").startswith("/scratch/me/cache/")
    for group, choices in app.groups.items():
        for choice in choices if group != "paths" else ():
            assert "outputs/" not in str(app.yaml_content(f"{group}/{choice}")), (group, choice)


def test_paths_data_is_the_root_of_downloaded_data():
    app = App(runs.ROOT / "conf", "train")
    assert app.compose(["data=torchvision", "data.name=MNIST"]).data.root == "data"
    assert app.compose(["data=torchvision", "data.name=MNIST", "paths.data=/archive"]).data.root == "/archive"


def test_debug_runs_one_batch_on_the_cpu_with_anomaly_detection(command):
    tiny = [word for word in runs.TINY if not word.startswith(("callbacks.fid", "callbacks.held_out_loss"))]
    code, _, err = command("train", "debug=default", *tiny, "hydra.run.dir=out")
    assert code == 0, err
    config = OmegaConf.load("out/config.yaml")
    assert (config.trainer.accelerator, config.trainer.detect_anomaly, config.data.num_workers) == ("cpu", True, 0)
    assert runs.checkpoint("out")["global_step"] == 1
    assert list(Path("out/samples").glob("*.png"))


def test_debug_uploads_nothing_and_can_be_changed():
    cfg = App(runs.ROOT / "conf", "train").compose(["experiment=cifar10", "debug=default", "trainer.max_steps=3"])
    assert unresolved_container(cfg.logger) == {}
    assert (cfg.trainer.max_steps, cfg.callbacks.fid) == (3, None)


@pytest.mark.parametrize("words", [["profiler=simple"], ["+trainer.profiler=simple"]], ids=" ".join)
def test_the_profiler_reports_at_the_end_and_in_the_folder(command, words):
    brief = (
        "trainer.max_steps=2",
        "callbacks.fid=null",
        "callbacks.held_out_loss=null",
        "callbacks.film=null",
        "callbacks.samples=null",
    )
    code, out, err = command("train", *runs.words(*words, folder="out", tiny=runs.TINY[:6]), *brief)
    assert code == 0, err
    assert "run_training_batch" in out
    assert "run_training_batch" in Path("out/profile.txt").read_text()


def test_a_run_records_what_was_chosen(command):
    words = ("method=edm", "preset=digits", "trainer.max_steps=1", "callbacks=null")
    code, _, err = command("train", *runs.words(*words, folder="out", tiny=("network.base_channels=8", "network.norm_groups=4")))
    assert code == 0, err
    choices = OmegaConf.load("out/config.yaml").choices
    assert (choices.method, choices.preset, choices.data, choices.logger) == ("edm", "digits", "digits", "csv")
    assert "experiment" not in choices


def test_help_shows_choices_in_folders_of_a_group():
    text = usage(App(runs.ROOT / "conf", "train"), [])
    folder = runs.ROOT / "conf" / "experiment" / "smoke"
    assert all(f"smoke/{path.stem}" in text.split() or f"smoke/{path.stem}," in text.split() for path in folder.glob("*.yaml"))


def test_an_experiment_of_ones_own_sets_keys_at_the_root(command, tmp_path):
    mine = tmp_path / "mine" / "experiment"
    mine.mkdir(parents=True)
    (mine / "five.yaml").write_text("# @package _global_\nseed: 5\nname: five\n")
    code, out, err = command("train", "--config-dir", "mine", "experiment=five", "--cfg", "job")
    assert code == 0, err
    assert "\nseed: 5\n" in f"\n{out}"
    _, out, _ = command("train", "--config-dir", "mine", "experiment=five", "seed=6", "--cfg", "job")
    assert "\nseed: 6\n" in f"\n{out}"
