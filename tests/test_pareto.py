"""What a sweep over settings of one checkpoint recommends, and how costs and likelihoods stand in its table."""

import pytest
from PIL import Image

from alphabar.cli.summaries.sweep_summary import print_cost_trade_off, results_table
from alphabar.runs.sweeps.pareto import cost_trade_off, pareto_front
from alphabar.runs.sweeps.sweep import Job, Sweep
from runs import table

NAMES = "fid/n1000-toy-ema-{}"


def sweep_of(folder, rows, name=NAMES):
    """rows: (sampler, steps, FID, evaluations, seconds)."""
    sweep = Sweep(folder)
    for num, (sampler, steps, fid, evaluations, seconds) in enumerate(rows):
        result = {"fid": {"name": name.format(f"{sampler}{steps}"), "value": fid, "floor": 0.5}}
        result |= {"network_evaluations": evaluations, "seconds_per_image": seconds}
        overrides = {"sampler": sampler, "sampler.num_steps": str(steps)}
        sweep.jobs.append(Job(num, overrides, folder / str(num), "finished", result=result))
    return sweep


ROWS = [
    ("ddim", 10, 2.0, 10, 0.1),
    ("ddim", 50, 1.04, 50, 0.5),
    ("heun", 10, 1.03, 19, 0.19),
    ("heun", 50, 1.0, 99, 0.9),
    ("euler", 10, 9.0, 10, 0.1),
]


def test_the_cheapest_setting_that_is_nearly_the_best_is_recommended(tmp_path, capsys):
    print_cost_trade_off(sweep_of(tmp_path, ROWS))
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("  use"))
    assert line == "  use      sampler=heun sampler.num_steps=10   # FID 1.03 with 19 evaluations; the best, 1, takes 99"
    with Image.open(tmp_path / "pareto.png") as picture:
        assert picture.width > 1000


def test_the_front_holds_what_nothing_beats(tmp_path):
    trade_off = cost_trade_off(sweep_of(tmp_path, ROWS))
    assert [setting.job.num for setting in pareto_front(trade_off.settings, "network_evaluations")] == [0, 2, 3]


def test_settings_are_compared_by_their_means_over_seeds(tmp_path):
    sweep = sweep_of(tmp_path, [*ROWS, ("ddim", 10, 1.0, 10, 0.3)])
    for job in sweep.jobs:
        job.overrides["seed"] = str(job.num)
    first = cost_trade_off(sweep).settings[0]
    assert (first.figure, first.costs) == (1.5, {"network_evaluations": 10.0, "seconds_per_image": pytest.approx(0.2)})
    assert "seed" not in first.overrides


@pytest.mark.parametrize(
    ("rows", "name", "said"),
    [
        ([("ddim", 10, 2.0, 10, 0.1), ("heun", 10, 1.0, 10, 0.1)], NAMES, ""),
        ([("ddim", 10, None, 10, 0.1), ("heun", 10, 1.0, 19, 0.1)], NAMES, ""),
        ([("ddim", 10, 2.0, 10, 0.1), ("heun", 10, 1.0, 19, 0.1)], "fid/{}-toy-ema", "not measured alike"),
    ],
    ids=["equal costs", "one figure", "unlike"],
)
def test_nothing_is_recommended_where_nothing_can_be_compared(tmp_path, capsys, rows, name, said):
    print_cost_trade_off(sweep_of(tmp_path, rows, name))
    assert said in capsys.readouterr().out
    assert not (tmp_path / "pareto.png").exists()


def test_costs_stand_in_the_table(tmp_path):
    sweep = sweep_of(tmp_path, ROWS)
    sweep.save()
    assert table(tmp_path / "results.csv")[0]["network_evaluations"] == "99.0"
    head, first, *_ = results_table(sweep).splitlines()
    assert head.split() == [
        "job",
        "sampler",
        "sampler.num_steps",
        "state",
        "FID",
        "x",
        "floor",
        "evaluations",
        "s/image",
        "seconds",
    ]
    assert first.split()[:8] == ["3", "heun", "50", "finished", "1", "2", "99", "0.9"]


def test_likelihoods_rank_a_sweep_too(tmp_path):
    sweep = Sweep(tmp_path)
    for num, bits in enumerate((4.2, 3.9)):
        result = {"bpd": {"name": f"bpd/ode-n10-heldout-ema-heun{num}", "value": bits, "floor": None}}
        sweep.jobs.append(Job(num, {"bpd_steps": str(num)}, tmp_path / str(num), "finished", result=result))
    sweep.save()
    rows = table(tmp_path / "results.csv")
    assert [(row["job"], row["bpd"]) for row in rows] == [("1", "3.9"), ("0", "4.2")]
    assert rows[0]["bpd_name"] == "bpd/ode-n10-heldout-ema-heun1"
    assert "bits/dim" in results_table(sweep)
