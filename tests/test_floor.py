"""Figures against their floor, in words."""

import math

from alphabar.evaluation.compare import format_against_floor
from alphabar.evaluation.receipt import Figure
from alphabar.evaluation.table import below_floor_notes, floor_words
from alphabar.runs.floor import against_floor
from alphabar.training.run_summary import result_line


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
    notes = below_floor_notes([fid, kid, limit])
    assert [note.partition(":")[0] for note in notes] == ["KID below the floor", "FID, many images below the floor of FID"]
    assert below_floor_notes([fid, figure("kid", 0.2, 0.17), figure("fid_infinity", 0.9, None)]) == []
