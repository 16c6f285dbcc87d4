"""Runs and sweeps as HTML pages."""

import json
import os
import re
import shutil

import pytest
import torch
from PIL import Image

from alphabar.errors import UserError
from alphabar.evaluation.receipt import Receipt, write_receipt
from alphabar.reports.html import render
from alphabar.reports.report import report_command
from pages import EVIL, Page, make_grid, make_receipt, make_run, make_sweep, report


def test_the_page_of_a_run_has_all_sections(tmp_path):
    run = make_run(tmp_path / "outputs" / "train" / "one")
    make_receipt(tmp_path / "outputs" / "evaluate" / "first", run / "checkpoints" / "last.ckpt", complaints=["colour cast: red"])
    make_receipt(tmp_path / "outputs" / "evaluate" / "other", tmp_path / "outputs" / "train" / "two" / "last.ckpt")
    page = report(run)
    assert page.all("html")[0]["lang"] == "en"
    assert any("width=device-width" in meta.get("content", "") for meta in page.all("meta"))
    for words in (
        "DDPM",
        "Linear: num_steps 1000",
        "Min SNR",
        "DDIM: num_steps 50",
        "UNet",
        "Digits",
        "8 x 8",
        "1 min 15 s",
        "6,336",
    ):
        assert words in page.text
    assert "fid/n100-classifier-ema-ddim50" in page.text
    assert "floor 0.5 (held-out images)" in page.text
    assert "2 samples have NaN or infinity" in page.text
    assert page.text.count("look here") == 2
    assert "news" in page.text
    assert "1.5 ± 0.71" in page.text
    assert "FID of pure noise" in page.text
    assert "inception_score_std" not in "".join(" ".join(page.words).split("receipt.json")[0])
    assert "first: colour cast: red" in page.text
    assert "Memorised: 40.0%" in page.text
    assert "protocol" in page.text.lower()
    assert "other" not in [word.split("/")[0] for word in page.words]
    slider = page.all("input")[0]
    assert (slider["type"], slider["min"], slider["max"]) == ("range", "0", "2")
    assert len([figure for figure in page.all("figure") if "data-step" in figure]) == 3
    charts = [json.loads(svg["data-lines"]) for svg in page.all("svg") if "data-lines" in svg]
    assert [line["name"] for line in charts[0]] == ["level 0.00 to 0.50, next to data", "all levels"]
    assert charts[2][0]["points"][-1][2:] == [99, "1.25"]


def test_what_comes_from_outside_is_only_text(tmp_path):
    run = make_run(tmp_path / "run", name=json.dumps(EVIL))
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("seed: 0", f"seed: {json.dumps(EVIL)}"))
    (run / "samples" / "step_0000010.png").rename(run / "samples" / "<b onload=alert(1)>'.png")
    receipt = make_receipt(tmp_path / "<i>", EVIL, complaints=[EVIL])
    rows = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(rows.replace("fid/n100-classifier-ema-ddim50", "fid/n100-<i>-ema-ddim50"))
    page = report(run, receipt)
    assert len(page.all("script")) == 1
    assert not page.all("b onload=alert(1)")
    assert not page.all("i")
    assert page.text.count(EVIL) >= 5
    assert page.all("title")
    assert "This receipt is not about a checkpoint in this run's folder" in page.text


def test_values_are_escaped_and_what_html_cannot_hold_is_replaced():
    shown = str(render("configuration", content=f"{EVIL}\x00\ud800", summary=[(EVIL, EVIL)]))
    assert "<script>" not in shown
    assert "\x00" not in shown
    assert Page(shown).text.count(EVIL) == 3
    assert "\"'<" not in str(render("run_header", name="\"'<", subtitle="", verdict=[], tiles=[], warnings=[]))


def test_what_is_missing_or_broken_takes_nothing_else_with_it(tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text("name: [")
    assert "config.yaml is no YAML" in report(bare).text
    run = make_run(tmp_path / "run")
    (run / "film.gif").write_bytes((run / "film.gif").read_bytes()[:40])
    (run / "samples" / "step_0000010.png").write_bytes(b"no picture")
    (run / "metrics.csv").write_text("step,train/loss\n0,1.0\n1,fast\nlast,2.0\n2,0.5\n")
    page = report(run)
    assert "step_0000010.png cannot be shown: UnidentifiedImageError" in page.text
    assert "film.gif cannot be shown" in page.text
    assert "metrics.csv: left out 2 rows or cells that are no numbers" in page.text
    assert page.all("input")[0]["max"] == "1"
    (run / "metrics.csv").write_bytes(b"step,train/loss\n\xff\xfe\n")
    shutil.rmtree(run / "samples")
    page = report(run)
    assert "metrics.csv cannot be read: UnicodeDecodeError" in page.text
    assert not page.all("input")


def test_at_most_40_grids_are_shown(tmp_path):
    page = report(make_run(tmp_path / "run", num_grids=95))
    steps = [figure["data-step"] for figure in page.all("figure") if "data-step" in figure]
    assert (len(steps), steps[0], steps[-1]) == (40, "0", "940")
    assert "40 of 95 grids" in page.text


def test_large_pictures_are_reduced(tmp_path):
    run = make_run(tmp_path / "run", num_grids=1)
    noise = torch.randint(256, (2000, 1000, 3), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(run / "samples" / "step_0000100.png")
    page = report(run)
    large = next(image for image in page.all("img") if image["src"].startswith("data:image/jpeg"))
    assert (large["width"], large["height"]) == ("800", "1600")
    assert "They are smaller here than in their files" in page.text


def test_receipts_are_found_named_and_compared(tmp_path):
    run = make_run(tmp_path / "outputs" / "train" / "one")
    checkpoint = run / "checkpoints" / "last.ckpt"
    make_receipt(tmp_path / "outputs" / "evaluate" / "a", checkpoint)
    make_receipt(tmp_path / "elsewhere" / "b", checkpoint, steps=10)
    page = report(run, "--receipts", tmp_path / "elsewhere")
    assert "Measured alike but for what is compared: sampler.num_steps." in page.text
    unlike = make_receipt(tmp_path / "c", checkpoint, num=50)
    page = report(run, unlike)
    assert "Not measured alike, so not to be compared: these differ num" in page.text
    assert len([table for table in page.all("table") if table.get("class") == "sortable"]) == 1
    assert len(page.all("article")) == 3
    unlike.write_text(unlike.read_text().replace("797", "798"))
    with pytest.raises(UserError, match="was edited"):
        report(run, unlike)
    found = tmp_path / "outputs" / "evaluate" / "a" / "receipt.json"
    found.write_text(found.read_text().replace("797", "798"))
    assert "was edited after it was written" in report(run).text


def test_what_is_called_a_receipt_and_is_none_keeps_no_report_waiting(tmp_path, monkeypatch):
    """Not even a pipe, which nobody writes into, or a file that is longer than any receipt."""
    monkeypatch.setattr("alphabar.reports.receipts.MAX_BYTES", 1000)
    run = make_run(tmp_path / "outputs" / "train" / "one")
    for name in ("pipe", "long"):
        (tmp_path / "outputs" / "evaluate" / name).mkdir(parents=True)
    os.mkfifo(tmp_path / "outputs" / "evaluate" / "pipe" / "receipt.json")
    (tmp_path / "outputs" / "evaluate" / "long" / "receipt.json").write_text(
        json.dumps({"subject": {"checkpoint": str(run / "checkpoints" / "last.ckpt"), "more": "x" * 1000}})
    )
    assert not report(run).all("article")


def test_a_receipt_with_holes_is_a_line(tmp_path):
    run = make_run(tmp_path / "run")
    write_receipt(Receipt((), {}, {}, {}, {}), tmp_path)
    assert "not a whole receipt: KeyError" in report(run, "--receipts", tmp_path).text


def test_the_page_of_a_sweep_has_all_sections(tmp_path):
    sweep = make_sweep(tmp_path / "sweep")
    make_grid(sweep / "pareto.png")
    (sweep / "1" / "error.txt").write_text("went wrong")
    page = report(sweep)
    anchors = {details["id"] for details in page.all("details") if "id" in details}
    assert anchors == {"job-0", "job-1", "job-2"}
    assert {link["href"] for link in page.all("a")} > {f"#{anchor}" for anchor in anchors}
    assert "Measured alike but for weights or sampler" in page.text
    assert "lowest FID 1.5" in page.text
    assert [image["alt"].split(",")[0] for image in page.all("img")] == [  # none twice
        "FID over network evaluations and over seconds",
        "newest samples of job 0: lr=1.0",
        "newest samples of job 1: lr=0.1",
    ]
    assert "best job 0: lr=1.0 FID 1.5" in page.text
    assert "worst job 1: lr=0.1 FID 2.5" in page.text
    assert "The lowest FID is 1.5" in page.text
    assert "FID over lr" in page.text
    assert "went wrong" in page.text
    assert "its folder is not in that of the sweep" in page.text
    assert len(page.all("script")) == 1
    assert [table["class"] for table in page.all("table")] == ["sortable"]
    charts = [json.loads(svg["data-lines"]) for svg in page.all("svg") if "data-lines" in svg]
    assert [[line["name"] for line in chart] for chart in charts] == [["job 0: lr=1.0", "job 1: lr=0.1"]] * 3


def test_the_page_of_a_sweep_has_the_common_configuration_once(tmp_path):
    sweep = make_sweep(tmp_path / "sweep")
    config = sweep / "1" / "config.yaml"
    config.write_text(
        config.read_text().replace("seed: 0", f"seed: {json.dumps(EVIL)}").replace("num_steps: 1000", "num_steps: 10")
    )
    page = report(sweep)
    assert "job schedule.num_steps seed job 0 1000 0 job 1 10 " + EVIL in page.text
    assert page.text.count("channel_multipliers 1/2") == 1
    assert page.text.count("resolution: 8") == 1
    assert "schedule Linear parameterization" in page.text
    assert not page.all("b onload=alert(1)")
    assert len(page.all("script")) == 1


def test_classes_that_differ_are_named_without_their_modules(tmp_path):
    sweep = make_sweep(tmp_path / "sweep")
    config = sweep / "1" / "config.yaml"
    changed = config.read_text().replace("weightings.MinSNR", "weightings.Uniform").replace("digits.Digits", "mine.Digits")
    config.write_text(changed)
    page = report(sweep)
    assert "job objective.weighting data._target_ job 0 MinSNR alphabar.data.sources.digits.Digits" in page.text
    assert "job 1 Uniform alphabar.data.sources.mine.Digits" in page.text
    assert "objective Denoising sampler" in page.text  # without a weighting that has no name


def test_a_sweep_of_many_jobs_shows_the_curves_of_the_best(tmp_path):
    names = [f"fid/n100-classifier-ema-ddim{index}" for index in range(10, 19)]
    page = report(make_sweep(tmp_path / "sweep", names))
    charts = [json.loads(svg["data-lines"]) for svg in page.all("svg") if "data-lines" in svg]
    assert [len(chart) for chart in charts] == [8, 8, 8]
    assert "the first 8 of 9 jobs in the table" in page.text
    assert len(page.all("img")) == 9


def test_the_page_of_a_sweep_marks_figures_that_are_unlike(tmp_path):
    sweep = make_sweep(tmp_path / "sweep", ("fid/n100-classifier-ema-ddim50", "fid/n100-inception-ema-ddim50"))
    page = report(sweep)
    assert "Not measured alike, so not to be compared" in page.text
    assert "lowest FID" not in page.text
    assert "best job" not in page.text
    assert "first in the table job 0" in page.text
    assert "FID over" not in page.text
    table = (sweep / "results.csv").read_text().replace("inception", "classifier").replace("lr", "data.root")
    (sweep / "results.csv").write_text(table)
    page = report(sweep)
    assert "FID is against other real images where these differ data.root" in page.text
    assert "lowest FID" not in page.text
    (sweep / "results.csv").write_bytes(b"job,\xff\n")
    assert "results.csv cannot be read: UnicodeDecodeError" in report(sweep).text


def test_a_job_s_folder_is_only_looked_for_inside_the_sweep(tmp_path):
    make_run(tmp_path / "secret")
    sweep = make_sweep(tmp_path / "sweep", ())
    (sweep / "results.csv").write_text("job,state,folder\n0,finished,../secret\n1,finished,/\n")
    assert "there is nothing in its folder" not in (page := report(sweep)).text
    assert page.text.count("its folder is not in that of the sweep") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "report: nowhere: there is no such folder"),
        (["file"], "report: file: is a file"),
        (["empty"], "report: empty: neither a run, which has config.yaml or metrics.csv, nor a sweep, which has results.csv"),
        (["run", "--out", "nowhere/a.html"], "there is no folder nowhere"),
        (["run", "--out", "file"], "is there already and no report of ours"),
        (["run", "--out", "empty"], "is a folder"),
        (["run", "empty"], "there is no receipt"),
        (["run", "--receipts", "empty"], "there is no receipt.json in it"),
        ([], "report: the following arguments are required: folder"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "run", num_grids=0)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        report_command(words)
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_page_of_ours_is_replaced(tmp_path):
    run = make_run(tmp_path / "run", num_grids=0)
    (run / "report.html").write_text("<title>mine</title>")
    with pytest.raises(UserError, match="no report of ours"):
        report_command([str(run)])
    report_command([str(run), "--out", str(tmp_path / "page.html")])
    before = (tmp_path / "page.html").read_text()
    make_grid(run / "samples" / "step_0000001.png")
    report_command([str(run), "--out", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").read_text() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run"]
