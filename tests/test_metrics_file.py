import pytest

from alphabar.runs.metrics_csv import read_metrics, read_rows
from alphabar.training.loggers.metrics_file import MetricsFile
from alphabar.training.recovery.skipped_steps import keep_rows_until


def test_figures_of_a_step_share_a_row_and_columns_may_come_later(tmp_path):
    log = MetricsFile(tmp_path)
    log.log_metrics({"loss": 0.5}, step=10)
    log.log_metrics({"loss": 0.25}, step=20)
    log.log_metrics({"fid": 12.0}, step=20)
    log.log_metrics({"loss": 0.125}, step=30)
    log.log_metrics({"fid": 3.0}, step=30)
    log.log_metrics({"loss": 0.1, "fid": 2.0}, step=40)
    text = "step,loss,fid\n10,0.5,\n20,0.25,12\n30,0.125,3\n40,0.1,2\n"
    assert (tmp_path / "metrics.csv").read_text() == text
    assert read_metrics(tmp_path / "metrics.csv").columns["fid"] == ([20, 30, 40], [12.0, 3.0, 2.0])


def test_every_row_is_in_the_file_at_once(tmp_path):
    log = MetricsFile(tmp_path)
    for step in range(5):
        log.log_metrics({"loss": 1.0}, step=step)
        assert [row["step"] for row in read_rows(tmp_path / "metrics.csv")] == [str(i) for i in range(step + 1)]


def test_a_resumed_run_goes_on_below_and_loses_no_row(tmp_path):
    log = MetricsFile(tmp_path)
    for step in (10, 20, 30):
        log.log_metrics({"loss": step / 10}, step=step)
    resumed = MetricsFile(tmp_path, resumed_at=20)
    resumed.log_metrics({"loss": 3.5}, step=30)
    resumed.log_metrics({"fid": 1.0}, step=30)
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,fid\n10,1,\n20,2,\n30,3.5,1\n"
    assert (tmp_path / "metrics_replaced.csv").read_text() == "resumed_at,step,loss\n20,30,3\n"
    MetricsFile(tmp_path, resumed_at=10)
    assert (tmp_path / "metrics_replaced.csv").read_text() == "resumed_at,step,loss,fid\n20,30,3,\n10,20,2,\n10,30,3.5,1\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics_replaced.csv"]


def test_a_row_cut_off_by_a_crash_is_left_out(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\n10,1\n20,0.12")
    log = MetricsFile(tmp_path, resumed_at=20)
    log.log_metrics({"loss": 0.125}, step=20)
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n10,1\n20,0.125\n"


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    log = MetricsFile(tmp_path)
    log.log_metrics({"loss": 1.0}, step=1)
    before = (tmp_path / "metrics.csv").read_text()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        log.log_metrics({"new": 1.0}, step=2)
    assert (tmp_path / "metrics.csv").read_text() == before


DAMAGED = {
    "no text": b"step,loss\n10,\xff\n20,1\n",
    "other columns": b"a,b\n1,2\n",
    "a step that is no number": b"step,loss\n10,1\nx,2\n",
    "too many cells": b"step,loss\n10,1,2\n",
    "a lone step": b"loss,step\n10\n",
}


@pytest.mark.parametrize("name", ["metrics.csv", "metrics_replaced.csv", "nonfinite.csv"])
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_table_is_kept_beside_the_new_one_and_the_run_goes_on(tmp_path, caplog, name, content):
    (tmp_path / "metrics.csv").write_text("step,loss\n10,1\n20,2\n")
    (tmp_path / name).write_bytes(content)
    MetricsFile(tmp_path, resumed_at=10).log_metrics({"loss": 3.0}, step=20)
    keep_rows_until(10, tmp_path)
    assert (tmp_path / f"{name}.damaged").read_bytes() == content
    assert caplog.messages == [f"{tmp_path / name} is damaged: renamed to {name}.damaged, and begun anew"]
    assert [row["step"] for row in read_rows(tmp_path / "metrics.csv")][-1] == "20"
