"""Pages in a real browser."""

import shutil
import subprocess

import pytest

from alphabar.reports.report import report_command
from pages import Page, make_receipt, make_run, make_sweep

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


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


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a run with two receipts, and of a sweep."""
    folder = tmp_path_factory.mktemp("pages")
    run = make_run(folder / "outputs" / "train" / ("a_name_without_any_break_in_it" * 3), num_grids=3)
    for name, steps in (("a", 50), ("b", 10)):
        evaluated = folder / "outputs" / "evaluate" / name
        make_receipt(evaluated, run / "checkpoints" / "last.ckpt", steps=steps, complaints=["c" * 99])
    sweep = make_sweep(folder / "sweep")
    for each in (run, sweep):
        report_command([str(each)])
    return run / "report.html", sweep / "report.html"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no browser")
@pytest.mark.parametrize("width", [1280, 400])
def test_pages_work_in_a_browser(tmp_path, pages, width):
    run, sweep = pages
    found = look(tmp_path, run, width)
    assert found | {"tip": ""} == {"ready": "yes", "overflow": "0", "shown": "0", "valuetext": "step 0", "tip": ""}
    assert found["tip"].startswith("step 99level 0.00 to 0.50, next to data0.2all levels0.01")
    found = look(tmp_path, sweep, width)
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
