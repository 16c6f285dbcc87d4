"""Figures against their floor, in words."""

import math
from types import SimpleNamespace

from alphabar.evaluation.compare import compare_receipts, format_against_floor
from alphabar.evaluation.receipt import Figure, Receipt, read_receipt, write_receipt
from alphabar.evaluation.table import floor_notes, floor_words, format_receipt
from alphabar.plotting import run_curves
from alphabar.plotting.sweep import draw_floor
from alphabar.runs.floor import FloorPair, against_floor, floor_name, floor_pair
from alphabar.runs.metrics_csv import RunMetrics
from alphabar.runs.sweeps.sweep import Job, Sweep, read_sweep
from alphabar.training.run_summary import result_line, run_result

FID, FLOOR = "fid/n1000-selfsup-ema-ddim50-eta0.5", "fid/floor-n20-selfsup"
MEAN = "fid_mean/n20-selfsup-ema-ddim50-eta0.5"
FEW = {FID: 70.0, MEAN: 1200.0, FLOOR: 1000.0}  # 1,000 samples, and 20 held-out images


def figure(metric, value, floor, name="x-ema"):
    return Figure(name, metric, "classifier", (value,), floor, "")


def test_a_distance_is_a_multiple_of_its_floor_where_there_is_one():
    assert against_floor(1.18, 0.85) == "1.39 x the floor"
    assert [against_floor(1.0, floor) for floor in (None, 0.0, -0.1, math.nan)] == [""] * 4
    assert against_floor(None, 1.0) == against_floor(math.inf, 1.0) == ""


def test_the_result_of_a_run_says_fid_against_its_floor():
    result = {"steps": 10, "seconds": 1.0, "loss": None, "fid": {"name": "fid/n10-toy", "value": 1.18, "floor": 0.85}}
    assert result_line(result).endswith("fid/n10-toy 1.18 (1.39 x the floor of held-out images, 0.85)")
    result["fid"]["floor"] = None
    assert result_line(result).endswith("fid/n10-toy 1.18")


def test_receipts_say_distances_against_their_floor_and_why_some_are_below():
    kid, fid, limit = figure("kid", -0.05, 0.17), figure("fid", 1.15, 0.85), figure("fid_infinity", 0.8, None)
    assert format_against_floor(fid) == "1.15 (1.35 x the floor)"
    assert floor_words(kid) == "below the floor"
    assert floor_words(figure("kid", 0.2, 0.17)) == "above the floor"
    assert [floor_words(each) for each in (figure("precision", 0.5, 0.8), figure("fid", 40.0, 0.8, "x-noise"), limit)] == [""] * 3
    notes = floor_notes([fid, kid, limit])
    assert [note.partition(":")[0] for note in notes] == ["KID below the floor", "FID, many images below the floor of FID"]
    assert floor_notes([fid, figure("kid", 0.2, 0.17), figure("fid_infinity", 0.9, None)]) == []


def test_the_floor_of_a_figure_is_found_by_its_name():
    assert floor_name("fid/n1000-classifier-ema-ddim50") == "fid/floor-n1000-classifier"
    assert floor_name("fid/n50-selfsup-ema-ddim3-eta0.5-cfg2.0-rescale0.7") == "fid/floor-n50-selfsup"
    assert floor_name(MEAN) == FLOOR


def test_a_figure_is_compared_with_a_floor_of_as_many_images():
    pair = floor_pair(FID, FEW)
    assert pair == FloorPair(MEAN, 1200.0, 1000.0)
    assert (pair.num, pair.is_mean, pair.words) == (20, True, "1.2 x the floor")
    equal = floor_pair(FID, FEW | {"fid/floor-n1000-selfsup": 50.0})
    assert (equal.num, equal.is_mean, equal.words) == (1000, False, "1.4 x the floor")
    assert floor_pair(FID, {FID: 70.0, FLOOR: 1000.0}) is None  # a file of an earlier version
    assert floor_pair(FID, {FID: 70.0, MEAN: 1200.0}) is None
    assert floor_pair(FID, {FID: 70.0, MEAN.replace("ddim", "heun"): 1200.0, FLOOR: 1000.0}) is None  # of another sampler
    assert floor_pair(FID, {FID: 70.0, "fid_mean/n20-pixels-ema-ddim50-eta0.5": 1.0, "fid/floor-n20-pixels": 1.0}) is None


def test_a_mean_of_an_earlier_step_is_not_that_of_the_newest_fid():
    columns = {FID: ([10, 20], [90.0, 70.0]), FLOOR: ([0], [1000.0]), MEAN: ([10, 20], [1500.0, 1200.0])}
    assert RunMetrics(columns).floor_pair(FID) == FloorPair(MEAN, 1200.0, 1000.0)
    assert RunMetrics(columns | {MEAN: ([10], [1500.0])}).floor_pair(FID) is None
    assert RunMetrics({}).floor_pair(FID) is None


def result_of(figures):
    module = SimpleNamespace(figures=figures, sweep_objective=lambda: None)
    trainer = SimpleNamespace(global_step=10, default_root_dir="out", loggers=[])
    return run_result(trainer, module, seconds=1.0)


def test_the_result_of_a_run_with_few_held_out_images_has_the_ratio_of_as_many():
    result = result_of(FEW)
    assert (result["fid"], result["objective"]) == ({"name": FID, "value": 70.0, "floor": None}, 70.0)
    assert result_line(result).endswith(f"{FID} 70 (of 20 at a time 1.2e+03, 1.2 x the floor of as many held-out images, 1e+03)")
    assert "floor" not in result_line(result_of({FID: 70.0, FLOOR: 1000.0}))
    assert "fid_mean" not in result_of({FID: 70.0, "fid/floor-n1000-selfsup": 50.0})


def receipt_of(*figures, num_floor=20):
    protocol = {"num": 1000, "seeds": [1], "reference": {"num": 180}, "floor": {"num": num_floor}}
    return Receipt(figures, protocol, {}, {}, {})


def test_a_receipt_compares_its_mean_over_sets_alone():
    mean = Figure(MEAN, "fid_mean", "selfsup", (1200.0,), 1000.0)
    text = format_receipt(receipt_of(Figure(FID, "fid", "selfsup", (70.0,)), mean))
    fid, over_sets, note = text.splitlines()[2:]
    assert fid.split() == ["FID", "selfsup", "70", FID]
    assert over_sets.split() == ["FID,", "sets", "of", "20", "selfsup", "1200", "1000", "1.2", "x", "the", "floor", MEAN]
    assert note.startswith("FID, sets of 20: the mean over sets of as many images as the floor is of")
    other = mean._replace(name=MEAN.replace("n20", "n30"))
    assert compare_receipts([receipt_of(mean), receipt_of(other, num_floor=30)]).figures == []
    assert len(compare_receipts([receipt_of(mean), receipt_of(mean)]).figures) == 1


def test_a_receipt_of_an_earlier_version_has_no_ratio_where_numbers_differ(tmp_path):
    figures = Figure(FID, "fid", "selfsup", (70.0,), 1000.0), Figure(FID, "cmmd", "clip", (1.0,), 2.0), figure("kid", 0.2, 0.1)
    for num_floor, floors in ((20, [None, None, 0.1]), (1000, [1000.0, 2.0, 0.1])):
        content = receipt_of(*figures, num_floor=num_floor)
        write_receipt(content._replace(run={"state": "finished"}), tmp_path)
        assert [each.floor for each in read_receipt(tmp_path).figures] == floors


def test_a_sweep_has_the_ratios_of_as_many_images(tmp_path):
    results = [result_of(FEW), result_of(FEW | {FID: 60.0, MEAN: 1500.0})]
    jobs = [Job(num, {"lr": str(num)}, tmp_path / str(num), "finished", result=result) for num, result in enumerate(results)]
    sweep = Sweep(tmp_path, jobs)
    assert [job.num for job in sweep.ranked()] == [1, 0]  # by FID itself
    sweep.save()
    again = read_sweep(tmp_path)
    for each in (sweep, again):
        columns = {column.title: column.cells() for column in each.result_columns()}
        assert (columns["FID"], columns["x floor"]) == (["60", "70"], ["1.5", "1.2"])
        draw_floor(SimpleNamespace(), each.jobs)  # draws nothing
    assert again.jobs[0].result["fid_mean"] == results[1]["fid_mean"]
    equal = Job(0, {}, tmp_path, "finished", result=result_of({FID: 70.0, "fid/floor-n1000-selfsup": 50.0}))
    Sweep(tmp_path, [equal]).save()
    assert "mean" not in (tmp_path / "results.csv").read_text().splitlines()[0]
    assert read_sweep(tmp_path).jobs[0].times_floor == 1.4


def test_the_chart_of_fid_shows_what_compares_with_the_floor():
    columns = {name: ([10], [value]) for name, value in FEW.items()}
    chart = run_curves.fid(RunMetrics(columns))
    assert [line.name for line in chart.lines] == [FID, MEAN]
    assert chart.levels == (("floor: held-out images, n20-selfsup", 1000.0),)
    assert chart.caption == "fid_mean alone compares with the floor"
    assert run_curves.fid(RunMetrics({FID: ([10], [70.0]), FLOOR: ([0], [1000.0])})).levels == ()
