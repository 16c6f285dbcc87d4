"""Prints the summary of a sweep that has ended: its table, its pictures and the recommended setting."""

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from alphabar.cli.composition.overrides import quoted
from alphabar.cli.empty_folders import remove_refused_sweep
from alphabar.cli.exit_status import Outcome
from alphabar.cli.processes import stoppable
from alphabar.files.paths import display_path
from alphabar.reports.at_end import leave_report
from alphabar.runs.provenance.current_command import invocation
from alphabar.runs.sweeps.pareto import CostTradeOff, cost_trade_off
from alphabar.runs.sweeps.sweep import (
    METRICS,
    NETWORK_EVALUATIONS,
    PARETO_PICTURE,
    PICTURE,
    SEED_KEY,
    TABLE,
    Job,
    Sweep,
    jobs_by_setting,
)
from alphabar.runs.sweeps.sweep_record import close_sweeps, open_sweeps
from alphabar.runs.text_table import format_table


def finish_sweeps(outcome: Outcome) -> Outcome:
    """Prints the summary of this process's sweep, if any, draws its pictures, and returns the outcome: failed if a job did.

    The folder of one that was refused is removed.
    """
    for sweep in [sweep for sweep in open_sweeps if sweep.jobs]:
        print(f"\n{results_table(sweep)}\n  table    {display_path(sweep.folder / TABLE)}")
        if any(job.state == "finished" for job in sweep.jobs):
            from alphabar.plotting.sweep import draw_sweep  # Matplotlib, which a sweep without results does not need

            draw_sweep(sweep, sweep.folder / PICTURE)
            print(f"  picture  {display_path(sweep.folder / PICTURE)}", flush=True)
            print_cost_trade_off(sweep)
        bad = [str(job.num) for job in sweep.jobs if job.state != "finished"]
        if bad and outcome.state != "stopped" and not outcome.is_bug:
            where = f"the column 'error' of {display_path(sweep.folder / TABLE)}, and error.txt in their folders"
            line = f"{len(bad)} of {len(sweep.jobs)} jobs did not finish: {', '.join(bad)}; see {where}"
            outcome = Outcome("failed", outcome.code or 1, (*outcome.lines, line))
        if bad and sweep.command is not None:
            print(f"  go on    {shlex.join(invocation(sweep.command.script))} {resume_word(sweep.folder)}", flush=True)
        if any(leaves_report(job) for job in sweep.jobs):
            with stoppable():
                page = leave_report(sweep.folder)
            if page is not None:
                print(f"  report   {display_path(page)}", flush=True)
    refused = [sweep.folder for sweep in open_sweeps if not sweep.jobs]
    close_sweeps()
    for folder in refused:
        remove_refused_sweep(folder)
    return outcome


def leaves_report(job: Job) -> bool:
    """Returns whether the command line of a job does not say `report=false`."""
    return job.overrides.get("report", "true").lower() != "false"


def resume_word(folder: Path) -> str:
    """Returns the override that goes on with the sweep in the folder, quoted for a shell where it has to be."""
    value = display_path(folder)
    return f"sweep.resume={value}" if value == shlex.quote(value) else shlex.quote(f"sweep.resume={quoted(value)}")


def results_table(sweep: Sweep) -> str:
    """Returns the jobs as a table for the terminal, the best first, followed by the full names of its figures.

    Jobs that differ in their seed alone are one row, with the mean and, after +-, the standard deviation over seeds.
    """
    is_folded = any(len(jobs) > 1 for jobs in jobs_by_setting(sweep.jobs))
    rows = rows_by_setting(sweep) if is_folded else rows_by_job(sweep)
    names = sweep.figure_names()
    return format_table(rows) + (f"\n{METRICS[sweep.metric]} is {', '.join(names)}" if names else "")


def rows_by_job(sweep: Sweep) -> list[list[object]]:
    """Returns the head of the table and a row for each job."""
    keys, columns = sweep.swept_keys(), sweep.result_columns()
    rows: list[list[object]] = [["job", *keys, "state", *(column.title for column in columns)]]
    for job, *cells in zip(sweep.ranked(), *(column.cells() for column in columns), strict=True):
        rows.append([job.num, *(job.overrides.get(key, "") for key in keys), job.state, *cells])
    return rows


def rows_by_setting(sweep: Sweep) -> list[list[object]]:
    """Returns the head of the table and a row for each setting, by the mean of its figure over the seeds."""
    keys, columns, ranked = [key for key in sweep.swept_keys() if key != SEED_KEY], sweep.result_columns(), sweep.ranked()
    values = {job.num: [column.values[place] for column in columns] for place, job in enumerate(ranked)}
    rows: list[list[object]] = []
    for jobs in sorted(jobs_by_setting(ranked), key=mean_figure):
        known = [
            [value for value in over_seeds if value is not None]
            for over_seeds in zip(*(values[job.num] for job in jobs), strict=True)
        ]
        cells = [column.mean_cell(over_seeds) for column, over_seeds in zip(columns, known, strict=True)]
        states = Counter(job.state for job in jobs)
        state = jobs[0].state if len(states) == 1 else ", ".join(f"{num} {name}" for name, num in states.items())
        numbers = ",".join(str(num) for num in sorted(job.num for job in jobs))
        rows.append([numbers, *(jobs[0].overrides.get(key, "") for key in keys), state, *cells])
    return [["jobs", *keys, "state", *(column.title for column in columns)], *rows]


def mean_figure(jobs: Sequence[Job]) -> float:
    """Returns the mean of the figure of merit of the jobs that have one, by which settings are sorted; inf if none has."""
    known = [job.figure for job in jobs if job.figure is not None]
    return fmean(known) if known else math.inf


def print_cost_trade_off(sweep: Sweep) -> None:
    """Draws `pareto.png` and prints the recommended setting, if the jobs differ in the cost of an image.

    Prints that no setting is recommended if the protocols of the jobs differ in more than weights and sampler.
    """
    trade_off = cost_trade_off(sweep)
    if trade_off is None:
        return
    if not trade_off.is_comparable():
        print("  the jobs were not measured alike, so no setting is recommended")
        return
    from alphabar.plotting.pareto import draw_pareto

    draw_pareto(trade_off, sweep.folder / PARETO_PICTURE)
    print(f"  cost     {display_path(sweep.folder / PARETO_PICTURE)}")
    print(f"  use      {recommendation(trade_off)}", flush=True)


def recommendation(trade_off: CostTradeOff) -> str:
    """Returns the overrides of the recommended setting, ready to be pasted, and the reason in a comment."""
    best, chosen = trade_off.best(), trade_off.recommended()
    reason = f"{METRICS[trade_off.metric]} {chosen.figure:.4g} with {chosen.costs[NETWORK_EVALUATIONS]:g} evaluations"
    if chosen is not best:
        reason += f"; the best, {best.figure:.4g}, takes {best.costs[NETWORK_EVALUATIONS]:g}"
    return f"{trade_off.label(chosen)}   # {reason}"
