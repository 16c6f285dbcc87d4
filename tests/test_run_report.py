"""The report that every run and every sweep leaves: its path is the last line, and nothing of it ends a run with an error."""

import signal

import pytest
from lightning.pytorch import Callback

import runs
from alphabar.cli.exit_status import FINISHED
from alphabar.cli.summaries import sweep_summary
from alphabar.reports import report
from alphabar.runs.sweeps.sweep import read_sweep
from alphabar.training.callbacks.stopping import STOP_SIGNALS
from pages import Page, make_sweep

QUICK = (*runs.BRIEF, "callbacks.held_out_loss=null", "report=true")
LAST_LINE = "  report       run/report.html"


class Signal(Callback):
    """Behaves as if a signal came during the first step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        STOP_SIGNALS.received = signal.SIGTERM


def test_the_report_is_the_last_line_of_a_run(command, tmp_path):
    code, out, err = command("train", *runs.words(*QUICK, folder="run"))
    assert (code, out.splitlines()[-1]) == (0, LAST_LINE), err
    words = Page((tmp_path / "run" / "report.html").read_text()).text
    assert "DDPM" in words
    assert "for samples and figures" in words  # the share of the one duration that is told
    assert "training time" not in words
    (tmp_path / "run" / "report.html").unlink()
    code, out, err = command("train", "resume=run", "report=false")
    assert code == 0, err
    assert "report" not in out
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_run_that_a_signal_stops_leaves_its_report(command, monkeypatch, tmp_path):
    from alphabar.training import run

    build_callbacks = run.build_callbacks
    monkeypatch.setattr(run, "build_callbacks", lambda *arguments: [Signal(), *build_callbacks(*arguments)])
    code, out, _ = command("train", *runs.words(*QUICK, "trainer.max_steps=4", folder="run"))
    assert (code, out.splitlines()[-1]) == (143, LAST_LINE)
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_report_that_cannot_be_made_is_a_line(command, monkeypatch):
    def fail(folder, receipts):
        raise RuntimeError("as if\nby accident")

    monkeypatch.setattr(report, "render_run", fail)
    code, out, err = command("train", *runs.words(*QUICK, folder="run"))
    assert code == 0
    assert "no report: as if by accident" in err.splitlines()
    assert "report" not in out


def test_what_is_neither_true_nor_false_is_refused(command, tmp_path):
    code, _, err = command("train", *runs.words("report=page.html", folder="run"))
    assert (code, err) == (2, "error: report=page.html: need true or false\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("is_wanted", [True, False])
def test_the_report_is_the_last_line_of_a_sweep(monkeypatch, tmp_path, capsys, is_wanted):
    monkeypatch.chdir(tmp_path)
    folder = make_sweep(tmp_path / "sweep")
    sweep = read_sweep(folder)
    for job in sweep.jobs:
        job.overrides |= {} if is_wanted else {"report": "false"}
    monkeypatch.setattr(sweep_summary, "open_sweeps", [sweep])
    assert sweep_summary.finish_sweeps(FINISHED).code == 1  # a job had failed
    assert (capsys.readouterr().out.splitlines()[-1] == "  report   sweep/report.html") == is_wanted
    assert (folder / "report.html").exists() == is_wanted
