"""Pages in a real browser, and the charts on them."""

import shutil
import subprocess

import pytest
import torch

from alphabar.reports.chart import Axis, Chart, Line, draw, thinned
from pages import Page, make_receipt, make_run, make_sweep, report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.parametrize("low", [1e-8, 0.05, 0.9, 1.0])
@pytest.mark.parametrize("ratio", [1.001, 1.5, 7.0, 1e3, 1e9])
@pytest.mark.parametrize("is_logarithmic", [True, False])
def test_axes_have_a_few_round_ticks(low, ratio, is_logarithmic):
    axis = Axis(low, low * ratio, 0, 100, is_logarithmic)
    ticks = axis.ticks()
    assert 3 <= len(ticks) <= 11
    assert all(-0.1 <= axis.place(tick) <= 100.1 for tick in ticks)


def test_charts_take_what_logs_hold():
    wild = Line("wild", [0, 1, 2, 3], [float("nan"), -1.0, float("inf"), 2.0], "main")
    assert thinned(wild)[0][1:3] == ([1, 3], [-1.0, 2.0])
    steps = range(10_000)
    long, size = thinned(Line("long", steps, [float(step % 2) for step in steps], "main"))
    assert (len(long.steps), size) == (295, 34)
    assert set(long.values[:-1]) == {0.5}
    assert (long.steps[-1], long.values[-1]) == (9999, 1.0)
    picked, _ = thinned(Line("long", steps, steps, "main"), is_mean=False)
    assert list(picked.values) == list(picked.steps)
    assert "means of 34 values" in draw(Chart("loss", [Line("long", steps, steps, "main")]))
    assert thinned(Line("short", range(300), range(300), "main"))[1] == 1
    assert "log scale" not in draw(Chart("loss", [wild], (), True))
    assert draw(Chart("loss", [Line("one", [0], [0.0], "main")], (), True))
    assert draw(Chart("loss", [Line("none", [], [], "main")])) == ""
    draws = torch.Generator().manual_seed(0)
    for _ in range(200):
        values = (10 ** (40 * torch.randn(5, dtype=torch.float64, generator=draws))).tolist()
        for sign in (1, -1):
            draw(Chart("any", [Line("any", range(5), [sign * values[0], *values[1:]], "c0")], [("floor", values[0])], True))


WRAPPER = """<!DOCTYPE html><html><body style="margin:0">
<iframe src="PAGE" style="border:0;width:WIDTHpx;height:900px"></iframe><script>
const say = (name, value) => document.documentElement.setAttribute("data-" + name, value);
document.querySelector("iframe").addEventListener("load", (event) => {
  const page = event.target.contentDocument, root = page.documentElement;
  say("ready", root.dataset.ready);
  say("overflow", root.scrollWidth - root.clientWidth);
  const slider = page.querySelector(".player input");
  if (slider) {
    slider.value = 0;
    slider.dispatchEvent(new Event("input"));
    say("shown", [...page.querySelectorAll(".player figure.on")].map((each) => each.dataset.step).join());
    say("valuetext", slider.getAttribute("aria-valuetext"));
  }
  const chart = page.querySelector("svg[data-lines]");
  chart.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
  say("tip", page.querySelector(".tip")?.textContent);
  const table = page.querySelector("table.sortable");
  const column = table && [...table.tHead.rows[0].cells].findIndex((each) => each.textContent === "lr");
  if (column > 0) {
    table.tHead.rows[0].cells[column].firstChild.click();
    say("sorted", [...table.tBodies[0].rows].map((row) => row.cells[column].textContent).join(" "));
    page.querySelector("a[href='#job-1']").click();
    setTimeout(() => say("open", page.getElementById("job-1").open), 200);
  }
});</script></body></html>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no browser")
@pytest.mark.parametrize("width", [1280, 400])
def test_pages_work_in_a_browser(tmp_path, capsys, width):
    run = make_run(tmp_path / "outputs" / "train" / ("a_name_without_any_break_in_it" * 3), num_grids=3)
    for name, steps in (("a", 50), ("b", 10)):
        make_receipt(
            tmp_path / "outputs" / "evaluate" / name, run / "checkpoints" / "last.ckpt", steps=steps, complaints=["c" * 99]
        )
    sweep = make_sweep(tmp_path / "sweep")
    report(capsys, run)
    report(capsys, sweep)
    found = look(tmp_path, run / "report.html", width)
    assert found | {"tip": ""} == {"ready": "yes", "overflow": "0", "shown": "0", "valuetext": "step 0", "tip": ""}
    assert found["tip"].startswith("step 99level 0.00 to 0.500.2all levels0.01")
    found = look(tmp_path, sweep / "report.html", width)
    assert (found["ready"], found["overflow"], found["open"]) == ("yes", "0", "true")
    assert found["sorted"].startswith("0.1 1.0 ")


def look(folder, page, width):
    """What a browser makes of the page in a frame of that width. Fails for anything in its console."""
    wrapper = folder / "wrapper.html"
    wrapper.write_text(WRAPPER.replace("PAGE", page.as_uri()).replace("WIDTH", str(width)))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0"]
    own = [f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},900", "--virtual-time-budget=4000"]
    command = [CHROMIUM, *options, *own, "--dump-dom", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    assert "CONSOLE" not in done.stderr
    root = Page(done.stdout).all("html")[0]
    return {name.removeprefix("data-"): value for name, value in root.items()}
