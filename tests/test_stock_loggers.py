"""Several loggers at once, loggers of Lightning by their names, and MLflow."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import runs
from alphabar.runs.resume import tell_of_addresses

TINY = [word for word in runs.TINY if not word.startswith(("callbacks.fid", "callbacks.film"))]
BRIEF = ("trainer.max_steps=2", "trainer.log_every_n_steps=1", "callbacks.fid=null", "callbacks.film=null", "callbacks.curves=null")
CSV = "+logger.x._target_=lightning.pytorch.loggers.CSVLogger"


def train(command, *words, logger="csv", brief=BRIEF):
    code, out, err = command("train", *runs.words(*brief, *words, folder="out", logger=logger, tiny=TINY))
    assert code == 0, err
    return out


def test_a_stock_logger_works_as_it_is_named_and_loses_no_row(command):
    train(command, CSV, "+logger.x.version=mine")
    rows = Path("out/lightning_logs/mine/metrics.csv")
    before = rows.read_text()
    assert "held_out/loss" in before
    assert not Path("lightning_logs").exists()
    code, _, err = command("train", "resume=out", "trainer.max_steps=3", CSV)
    assert code == 0, err
    assert Path("out/lightning_logs/mine_earlier/metrics.csv").read_text() == before
    assert "held_out/loss" in rows.read_text()
    words = ("+logger.x.name=''", "+logger.x.version=''")
    code, _, err = command("train", *runs.words(*BRIEF, CSV, *words, folder="other", tiny=TINY))
    assert (code, err) == (2, "error: logger.x: would write over the run's own metrics.csv; need another name or version\n")


def test_several_loggers_on_the_command_line_and_in_an_experiment(command, tmp_path):
    train(command, "callbacks.samples=null", logger="[csv,tensorboard]")
    assert list(Path("out/tensorboard").iterdir())
    choices = OmegaConf.load("out/config.yaml").choices
    assert (choices.logger, choices.statistics) == ("[csv,tensorboard]", "fid")
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    file = tmp_path / "mine" / "experiment" / "both.yaml"
    file.write_text("# @package _global_\ndefaults:\n  - override /logger: [wandb, tensorboard]\n")
    code, out, err = command("train", "--config-dir", "mine", "experiment=both", "--cfg", "job")
    assert code == 0, err
    assert "WandbRun" in out
    assert "TensorBoardRun" in out


def test_a_logger_that_there_is_not_is_one_line_with_the_choices(command):
    code, _, err = command("train", "logger=[csv,mlfow]")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "Did you mean mlflow? logger takes: csv, mlflow, tensorboard, wandb" in err


def test_mlflow_has_the_curves_and_pictures_of_a_run_and_of_its_resumption(command, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    train(command, logger="mlflow")
    code, _, err = command("train", "resume=out", "trainer.max_steps=3")
    assert code == 0, err
    client = tracking.MlflowClient(Path("out/mlruns").absolute().as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("alphabar").experiment_id])
    assert found.info.status == "FINISHED"
    assert [each.step for each in client.get_metric_history(found.info.run_id, "train/loss")] == [1, 2, 3]
    assert {each.path for each in client.list_artifacts(found.info.run_id, "samples")} == {
        f"samples/step_000000{step}.png" for step in (0, 2, 3)
    }
    assert found.data.params["network.base_channels"] == "8"
    assert found.data.params["trainer.max_steps"] == "2"  # as it began


def test_an_id_in_a_strange_folder_is_no_run_of_ours(tmp_path, monkeypatch, caplog):
    tracking = pytest.importorskip("mlflow.tracking")
    from alphabar.training.loggers.mlflow_run import ID_FILE, MLFlowRun, without_account

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    server = (tmp_path / "server").as_uri()
    client = tracking.MlflowClient(server)
    ours = client.create_run("0").info.run_id
    (tmp_path / ID_FILE).write_text(f"{ours} key {server}\n")
    assert MLFlowRun(str(tmp_path), "name", tracking_uri=server)._run_id is None
    assert caplog.messages == [f"mlflow: there is no run {ours} that began in this folder, so a new run is begun"]
    assert without_account("https://me:secret@host:80/x") == "https://host:80/x"


def test_a_stored_configuration_sends_nothing_to_a_server_of_its_choice():
    from alphabar.config.stored_paths import confined

    assert confined({"logger": {"mlflow": {"tracking_uri": "https://canary"}}}) == {"logger": {"mlflow": {"tracking_uri": None}}}


def test_an_address_that_is_not_used_when_a_run_goes_on_is_one_line(tmp_path, caplog):
    address = {"tracking_uri": "https://me:secret@host"}
    config = {"logger": {"mlflow": address, "mine": address, "other": {"tracking_uri": None}, "csv": {}}}
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    tell_of_addresses(tmp_path, ["logger.mine.tracking_uri=https://there"])
    place = "logger.mlflow.tracking_uri"
    line = f"{place}: the address in config.yaml is not used; to send figures there again, name it: {place}=..."
    assert caplog.messages == [line]
    tell_of_addresses(tmp_path, ["logger=mlflow"])
    assert caplog.messages == [line]


def test_only_the_first_process_has_other_loggers(monkeypatch, tmp_path):
    from alphabar.config.allowed_targets import allowing
    from alphabar.training.loggers.make import make_loggers

    cfg = OmegaConf.create(
        {"run_dir": str(tmp_path), "name": None, "logger": {"x": {"_target_": "lightning.pytorch.loggers.CSVLogger"}}}
    )
    cfg.logger.x.save_dir = str(tmp_path)
    with allowing([cfg.logger.x._target_]):
        assert [type(each).__name__ for each in make_loggers(cfg, None)] == ["MetricsFile", "CSVLogger"]
        monkeypatch.setitem(os.environ, "LOCAL_RANK", "1")
        assert [type(each).__name__ for each in make_loggers(cfg, None)] == ["MetricsFile"]
