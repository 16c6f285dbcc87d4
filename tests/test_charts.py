"""Charts over optimizer steps, as pictures and on pages."""

import re
import subprocess
import sys
from importlib.resources import files

import pytest
import torch
from PIL import Image

from alphabar.plotting.figure import round_ticks, tick_labels
from alphabar.plotting.line_chart import CSS_COLOURS, MAIN, PALETTE, Chart, Line, chart_svg, save_charts, thinned
from alphabar.reports.charts import render_chart
from pages import Page


@pytest.mark.parametrize("low", [1e-8, 0.05, 0.9, 1.0])
@pytest.mark.parametrize("ratio", [1.001, 1.5, 7.0, 1e3, 1e9])
@pytest.mark.parametrize("is_logarithmic", [True, False])
def test_axes_have_a_few_round_ticks(low, ratio, is_logarithmic):
    ticks = round_ticks(low, low * ratio, is_logarithmic)
    assert 3 <= len(ticks) <= 11
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert len(set(tick_labels(ticks))) == len(ticks)


def test_logarithmic_axes_have_ticks_at_one_two_and_five():
    assert tick_labels(round_ticks(0.9, 70, True)) == ["1", "2", "5", "10", "20", "50"]
    assert tick_labels(round_ticks(3e-6, 2e-4, True)) == ["5e-6", "1e-5", "2e-5", "5e-5", "0.0001", "0.0002"]


def test_long_lines_are_thinned_and_what_is_no_figure_is_left_out():
    wild = Line("wild", [0, 1, 2, 3], [float("nan"), -1.0, float("inf"), 2.0], MAIN)
    assert thinned(wild)[0][1:3] == ([1, 3], [-1.0, 2.0])
    steps = range(10_000)
    long, size = thinned(Line("long", steps, [float(step % 2) for step in steps], MAIN))
    assert (len(long.steps), size) == (295, 34)
    assert set(long.values[:-1]) == {0.5}
    assert (long.steps[-1], long.values[-1]) == (9999, 1.0)
    picked, _ = thinned(Line("long", steps, steps, MAIN), is_mean=False)
    assert list(picked.values) == list(picked.steps)
    assert Chart("loss", [Line("long", steps, steps, MAIN)]).thinned().caption == "means of 34 values"
    assert thinned(Line("short", range(300), range(300), MAIN))[1] == 1
    assert not Chart("loss", [wild], (), True).thinned().is_logarithmic
    assert render_chart(Chart("loss", [Line("none", [], [], MAIN)])) == ""


def test_any_values_that_logs_hold_can_be_drawn():
    draws = torch.Generator().manual_seed(0)
    assert chart_svg(Chart("loss", [Line("one", [0], [0.0], MAIN)], (), True))
    for _ in range(10):
        values = (10 ** (40 * torch.randn(5, dtype=torch.float64, generator=draws))).tolist()
        for sign in (1, -1):
            line = Line("any", range(5), [sign * values[0], *values[1:]], PALETTE[0])
            chart_svg(Chart("any", [line], [("floor", values[0])], True))


def test_a_page_shows_a_chart_in_its_colours_with_the_places_of_its_points():
    line = Line("<loss>", [0, 50, 100], [1.0, 0.1, 0.01], PALETTE[2])
    chart = Chart("loss", [line], [("floor", 0.02)], True)
    svg = chart_svg(chart)
    drawn = re.search(r'd="M ([^"]*)" [^>]*var\(--c2\)', svg.content)[1]
    assert svg.places == [[tuple(round(float(each), 1) for each in point.split()) for point in drawn.split("L")]]
    page = Page(render_chart(chart) + render_chart(chart))  # ids that are there twice would be found
    assert "<loss>" in page.text
    assert not any("style" in attributes for _, attributes in page.tags)
    assert "floor 0.02" in page.text


def test_colours_are_those_of_the_style_sheet_in_its_light_theme():
    light = (files("alphabar.reports") / "templates" / "report.css").read_text(encoding="utf-8").partition("}")[0]
    assert {name: colour for colour, name in CSS_COLOURS.items()} == {
        name: colour for name, colour in re.findall(r"(--[\w-]+): (#\w+)", light) if name in CSS_COLOURS.values()
    }


def test_a_picture_has_a_panel_for_each_chart_that_has_points(tmp_path):
    line = Line("$loss_{", [1, 2], [0.5, 0.25], MAIN)  # no formula
    charts = [Chart("empty", [Line("none", [], [], MAIN)]), Chart("loss", [line])]
    save_charts(charts[:1], tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()
    for num in (1, 2):
        save_charts(charts[:1] + charts[1:] * num, tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as picture:
            assert picture.width == 605 * num


def test_matplotlib_is_loaded_only_to_draw():
    names = ("alphabar.plotting.run_curves", "alphabar.plotting.sweep", "alphabar.plotting.pareto", "alphabar.runs.sweeps.pareto")
    code = f"import sys, {', '.join(names)}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
