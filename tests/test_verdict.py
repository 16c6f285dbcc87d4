"""What the report of a run says in plain sentences, and the record that it shows."""

import math

import pytest

from alphabar.metrics.features import inception
from alphabar.reports.run_record import RunRecord, read_run_record, record_rows
from alphabar.reports.verdict import USUAL_NUM_FEATURES, end_sentence, fid_sentence, loss_sentence, run_verdict, samples_sentence
from alphabar.runs.metrics_csv import RunMetrics
from alphabar.runs.provenance.receipt import write_content
from pages import EVIL, make_run, report

FID, FLOOR = "fid/n1000-classifier-ema-ddim50", "fid/floor-n1000-classifier"


def metrics(**columns):
    return RunMetrics({name: ([*range(0, 100 * len(values), 100)], [*map(float, values)]) for name, values in columns.items()})


@pytest.mark.parametrize(
    ("value", "word"), [(0.9, "as good as real images"), (1.4, "close to"), (4, "some way from"), (50, "far from real")]
)
def test_fid_is_told_as_a_multiple_of_its_floor(value, word):
    sentence = fid_sentence(metrics(**{FID: [value], FLOOR: [0.5]}))
    assert sentence.startswith(f"FID {value} is {2 * value:.3g} x the floor") if value > 1 else "x the floor" in sentence
    assert word in fid_sentence(metrics(**{FID: [value], FLOOR: [1.0]}))
    assert "there is no floor" in fid_sentence(metrics(**{FID: [value]}))
    assert fid_sentence(metrics(**{FID: [math.nan], FLOOR: [1.0]})) == ""


@pytest.mark.parametrize(
    ("features", "num", "words"),
    [
        ("selfsup", 500, "some way from real images."),
        ("selfsup", 20, "so few images tell little; hold out more images, of a folder with data.held_out=0.3."),
        ("inception", 500, "so few images tell little; hold out more images, of a folder with data.held_out=0.3."),
    ],
)
def test_fid_is_compared_with_a_floor_of_as_many_images(features, num, words):
    fid, mean, floor = f"fid/n1000-{features}-ema-ddim50", f"fid_mean/n{num}-{features}-ema-ddim50", f"fid/floor-n{num}-{features}"
    sentence = fid_sentence(RunMetrics({fid: ([10], [70.0]), mean: ([10], [1200.0]), floor: ([0], [500.0])}))
    assert sentence == (
        f"FID is 70. Of {num} samples at a time, as many as there are held-out images, it is 1200, 2.4 x the floor, "
        f"that of these images: {words}"
    )
    assert "there is no floor" in fid_sentence(RunMetrics({fid: ([10], [70.0]), floor: ([0], [500.0])}))
    assert USUAL_NUM_FEATURES["inception"] == inception.NUM_FEATURES


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([9, 1.0, 0.8, 0.6, 0.5, 0.4], "was still falling at the end, by 33.3% in the last quarter"),
        ([9, 1.0, 0.6, 0.5, 0.5, 0.499], "has levelled off"),
        ([9, 1.0, 0.5, 0.6, 0.7, 0.8], "has been rising since step 200"),
    ],
)
def test_the_course_of_the_held_out_loss(values, words):
    assert words in loss_sentence(metrics(**{"held_out/loss_ema": values, "held_out/loss": [9] * 6}))
    assert words in loss_sentence(metrics(**{"held_out/loss": values}))
    assert loss_sentence(metrics(**{"held_out/loss": values[:4]})) == ""


def test_the_course_of_a_training_loss_that_is_noise():
    noise = [0.05 * (-1) ** index for index in range(40)]
    falling = [1 / (1 + 0.1 * index) + noise[index] for index in range(40)]
    assert loss_sentence(metrics(**{"train/loss": falling})).startswith("The training loss was still falling")
    assert loss_sentence(metrics(**{"train/loss": [1 + each for each in noise]})) == "The training loss has levelled off."
    assert loss_sentence(metrics(**{"train/loss": falling[::-1]})) == "The training loss was rising at the end."


def test_the_samples_are_healthy_or_not():
    good = {"health/contrast": [1.0], "samples/num_nonfinite": [0]}
    assert samples_sentence(metrics(**good)) == "The samples are healthy."
    assert "no copies" in samples_sentence(metrics(**good, **{"health/near_copies": [0.0]}))
    bad = samples_sentence(metrics(**good, **{"health/near_copies": [0.4], "health/diversity": [0.1]}))
    assert bad == "The samples are not healthy: near copies 0.4, diversity 0.1."
    assert run_verdict(RunMetrics({}), {}, RunRecord()) == []


def test_how_a_run_ended():
    record = RunRecord([{"state": "finished"}, {"state": "stopped", "step": 900}])
    assert end_sentence({"trainer": {"max_steps": 1800}}, record) == "A signal stopped it at step 900 of 1,800."
    assert end_sentence({}, RunRecord([{"state": "finished", "step": 900}])) == ""
    assert end_sentence({"trainer": None}, RunRecord([{"state": ["?"], "step": "x"}])) == ""


def test_the_record_adds_its_starts_up(tmp_path):
    start = {"state": "stopped", "step": 3, "seconds": 30.0, "evaluation_seconds": 3.0, "num_images": 797, "begin": "2026"}
    later = start | {"state": "finished", "step": 9, "command": f"python train.py name={EVIL}", "composition": {"data": EVIL}}
    later |= {"machine": {"cores": 2, "memory": 8.5}, "hardware": "1 x cpu", "code": "c0ffee", "code_changes": "code.diff"}
    run = make_run(tmp_path / "run")
    write_content(run / "receipt.json", {"starts": [start, later]})
    record = read_run_record(run)
    rows = dict(record_rows(record))
    assert rows["time"] == "begun 2026, 1 min 00 s in all, 10% of it for samples and figures (6 s)"
    assert rows["hardware"] == "1 x cpu, 2 cores, 8.5 GiB of memory"
    assert rows["code"] == "c0ffee, changes in code.diff"
    assert rows["starts"] == "2026: stopped at step 3; 2026: finished at step 9"
    assert record.epochs(1594) == 2
    assert RunRecord([start, {"state": "interrupted"}]).total("seconds") is None
    text = report(run).text
    assert f"name={EVIL}" in text
    assert "7.95 epochs" in text
    assert "FID 1.25 is 2.5 x the floor, that of held-out real images: some way from real images." in text
    (run / "receipt.json").write_text("{}")
    assert "receipt.json: not a receipt" in report(run).text


@pytest.mark.parametrize(
    "start",
    [
        {},
        {"machine": 1, "versions": [], "composition": "x", "seconds": "s", "begin": None},
        {"machine": {"cores": 10**400}, "seconds": 10**400, "evaluation_seconds": 10**400},
    ],
)
def test_a_record_of_another_shape_has_no_rows(start):
    assert record_rows(RunRecord([start])) == []
