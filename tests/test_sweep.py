"""What a sweep leaves: its table, and its picture."""

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from alphabar.cli.summaries.sweep_summary import results_table
from alphabar.plotting.sample_corner import newest_samples
from alphabar.plotting.sweep import SweepLayout, draw_sweep, plot_lines
from alphabar.runs.sweeps.sweep import Job, Sweep, read_sweep
from alphabar.runs.text_table import format_table
from alphabar.sampling.image_grid import grid, save_png
from runs import table


def make_sweep(folder, combinations, failed=(), fid=True):
    sweep = Sweep(folder)
    for num, overrides in enumerate(combinations):
        job = Job(num, overrides, folder / str(num), "failed" if num in failed else "finished")
        if num in failed:
            job.error = "schedule: need 0 < beta_start < beta_end < 1, got beta_start=0.0001, beta_end=2"
        else:
            job.folder.mkdir(exist_ok=True)
            save_png(grid(torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)), job.folder / "samples" / "step_1.png")
            job.result = {"loss": 0.1, "fid": {"name": "fid/n1000-toy", "value": 9.0 + num, "floor": 8.0} if fid else None}
        sweep.jobs.append(job)
    return sweep


@pytest.mark.parametrize(
    ("combinations", "failed", "fid"),
    [
        ([{"seed": "1"}], (), True),
        ([{"schedule": "linear"}, {"schedule": "cosine"}], (), True),
        ([{"a": a, "lr": lr} for a in "xy" for lr in ("1e-5", "1e-3", "0.1")], (5,), True),
        ([{"a": str(a), "b": b, "c": c} for a in range(3) for b in "xy" for c in "zw"], (0, 7), True),
        ([{"lr": str(lr / 7), "decay": str(lr / 3)} for lr in range(1, 12)], (), True),
        ([{"seed": "1"}, {"seed": "2"}], (), False),
        ([{"seed": "1"}, {"seed": "2"}, {}], (1,), True),
        ([{"prompt": "$a_{", "name": r"\frac$x$"}, {"prompt": "^$", "name": "$_$"}], (), True),
    ],
    ids=["one", "words", "two keys", "three keys", "random", "loss", "missing key", "no formula"],
)
def test_the_picture_can_be_drawn_for_any_sweep(tmp_path, combinations, failed, fid):
    draw_sweep(make_sweep(tmp_path, combinations, failed, fid), tmp_path / "sweep.png")
    with Image.open(tmp_path / "sweep.png") as picture:
        assert 800 <= picture.width <= 1600
        assert 500 <= picture.height <= 3000


def test_samples_are_cut_off_between_images(tmp_path):
    images = torch.randint(200, (64, 1, 8, 8), dtype=torch.uint8)
    save_png(grid(images), tmp_path / "samples" / "step_0000001.png")
    save_png(grid(images + 1), tmp_path / "samples" / "step_0000010.png")
    picture = newest_samples(tmp_path)
    assert picture is not None
    assert torch.equal(torch.from_numpy(picture.copy()), grid((images + 1).view(8, 8, 1, 8, 8)[:4, :4].reshape(16, 1, 8, 8))[0])
    assert newest_samples(tmp_path / "nowhere") is None


def test_jobs_without_a_usable_fid_come_after_those_with_one(tmp_path):
    sweep = make_sweep(tmp_path, [{"seed": str(seed)} for seed in range(4)], failed=(1,))
    sweep.jobs[0].result["fid"]["value"] = float("nan")
    assert [job.num for job in sweep.ranked()] == [2, 3, 0, 1]
    sweep.save()
    assert [row["fid"] for row in table(tmp_path / "results.csv")] == ["11.0", "12.0", "", ""]


def test_a_sweep_is_read_as_it_was_saved(tmp_path):
    sweep = make_sweep(tmp_path, [{"lr": "0.1", "seed": "1"}, {"lr": "0.2"}, {"lr": "a,b"}], failed=(1,))
    for job in sweep.jobs:
        job.result |= {"network_evaluations": 50.0, "images_per_second": 700.0}
    sweep.save()
    found = read_sweep(tmp_path)
    assert [job.num for job in found.jobs] == [job.num for job in sweep.ranked()]
    assert results_table(found) == results_table(sweep)
    for job, again in zip(sweep.ranked(), found.jobs, strict=True):
        assert (again.overrides, again.state, again.error, again.folder) == (job.overrides, job.state, job.error, job.folder)
        assert (again.figure, again.figure_name, again.loss) == (job.figure, job.figure_name, job.loss)
    (tmp_path / "results.csv").write_text("job,state\nfirst,finished\n")
    with pytest.raises(ValueError, match="first"):
        read_sweep(tmp_path)


def test_jobs_that_differ_in_their_seed_are_one_row_of_the_table(tmp_path):
    combinations = [{"method": method, "seed": seed} for method in ("ddpm", "edm") for seed in ("0", "1", "2")]
    sweep = make_sweep(tmp_path, combinations, failed=(5,))
    head, *rows = (line.split() for line in results_table(sweep).splitlines())
    assert head == ["jobs", "method", "state", "loss", "FID", "x", "floor", "seconds"]
    first = "0,1,2 ddpm finished 0.1000 +- 0 10 +- 1 1.25 0"
    assert rows[0] == first.split()
    assert rows[1][:10] == ["3,4,5", "edm", "2", "finished,", "1", "failed", "0.1000", "+-", "0", "12.5"]
    sweep.save()
    assert len(table(tmp_path / "results.csv")) == 6


@pytest.mark.parametrize(("combinations", "lines", "bars"), [
    ([{"method": method, "seed": seed} for method in ("ddpm", "edm") for seed in "01"], "None", 1),
    ([{"lr": lr, "seed": seed} for lr in ("0.1", "0.2") for seed in "01"], "-", 1),
    ([{"seed": seed} for seed in "012"], "None", 0),
    ([{"method": method} for method in ("ddpm", "edm")], "None", 0),
])  # fmt: skip
def test_only_numbers_are_joined_and_seeds_are_folded(tmp_path, combinations, lines, bars):
    axes = Figure().subplots()
    plot_lines(axes, SweepLayout(make_sweep(tmp_path, combinations)))
    assert axes.lines[0].get_linestyle() == lines
    assert len(axes.containers) == bars
    if bars:
        assert list(axes.lines[0].get_ydata()) == [9.5, 11.5]  # means of 9, 10 and of 11, 12


def test_columns_are_aligned_and_numbers_flush_right():
    assert format_table([["job", "word", "fid"], [1, "linear", "9.50"], [10, "cos", ""]]) == (
        "job  word     fid\n  1  linear  9.50\n 10  cos"
    )
