"""Which setting of a sampler to use: figures of merit over what they cost, and the cheapest setting that is nearly the best."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphabar.runs.console import shown
from alphabar.runs.sweep import COSTS, KINDS, Job, Sweep, core

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "pareto.png"
TOLERANCE = 0.05  # of the best figure: within it, less cost is worth more
EVALUATIONS = "network_evaluations"
AXES = {EVALUATIONS: "network evaluations an image", "seconds_per_image": "seconds an image, on one device"}
OWN_COLOURS = 8
APART = 1.3  # as a ratio, of two ticks


def report(sweep: Sweep) -> None:
    """Where the jobs of a sweep differ in what an image costs: draws `pareto.png`, and prints the setting to use.

    Nothing but a line that says so where the jobs were not measured alike, apart from weights and sampler.
    """
    jobs = over_seeds([job for job in sweep.jobs if job.figure is not None and job.cost(EVALUATIONS) is not None])
    if len({job.cost(EVALUATIONS) for job in jobs}) < 2:
        return
    if len({(core(job.figure_name), job.protocol) for job in jobs}) > 1:
        print("  the jobs were not measured alike, so no setting is recommended")
        return
    draw(sweep, jobs, sweep.folder / PICTURE)
    print(f"  cost     {shown(sweep.folder / PICTURE)}")
    print(f"  use      {recommendation(sweep, jobs)}", flush=True)


def over_seeds(jobs: list[Job]) -> list[Job]:
    """A job for each setting, with the mean of its figure and its costs over seeds: a lucky seed is no setting."""
    groups: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple((key, value) for key, value in job.overrides.items() if key != "seed"), []).append(job)
    return [merged(dict(setting), members) for setting, members in groups.items()]


def merged(overrides: dict[str, str], jobs: list[Job]) -> Job:
    """One job of several."""
    first = jobs[0]
    result: dict[str, Any] = dict(first.result)
    result[first.kind] = {**first.result[first.kind], "value": sum(merit(job) for job in jobs) / len(jobs)}
    for name in COSTS:
        costs = [spent for job in jobs if (spent := job.cost(name)) is not None]
        result |= {name: sum(costs) / len(costs)} if costs else {}
    return Job(first.num, overrides, first.folder, first.state, result=result)


def recommendation(sweep: Sweep, jobs: list[Job]) -> str:
    """The overrides to paste, and why."""
    kind, best, chosen = KINDS[sweep.kind], min(jobs, key=merit), recommended(jobs)
    reason = f"{kind} {merit(chosen):.4g} with {cost(chosen):g} evaluations"
    if chosen is not best:
        reason += f"; the best, {merit(best):.4g}, takes {cost(best):g}"
    return f"{sweep.label(chosen)}   # {reason}"


def recommended(jobs: list[Job]) -> Job:
    """The job with the fewest evaluations among those whose figure is at most 5% above the best; of several the better one."""
    bar = merit(min(jobs, key=merit))
    able = [job for job in jobs if merit(job) <= bar + TOLERANCE * abs(bar)]
    return min(able, key=lambda job: (cost(job), merit(job)))


def merit(job: Job) -> float:
    """Its figure."""
    assert job.figure is not None
    return job.figure


def cost(job: Job, name: str = EVALUATIONS) -> float:
    """What an image takes."""
    found = job.cost(name)
    assert found is not None
    return found


def front(jobs: list[Job], name: str) -> list[Job]:
    """Those that no other job beats both in cost and in figure, the cheapest first."""
    kept: list[Job] = []
    for job in sorted(jobs, key=lambda job: (cost(job, name), merit(job))):
        if not kept or merit(job) < merit(kept[-1]):
            kept.append(job)
    return kept


def draw(sweep: Sweep, jobs: list[Job], path: Path) -> None:
    """Writes the picture: the figure over evaluations and over seconds, a line for each setting of all that is not the number of
    steps."""
    from matplotlib.figure import Figure  # half a second that only this needs

    names = [name for name in COSTS if all(job.cost(name) is not None for job in jobs)]
    figure = Figure(figsize=(5.6 * len(names) + 1.5, 4.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        plot(axes, sweep, jobs, name)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize="small", frameon=False)
    figure.savefig(path, dpi=110)


def plot(axes: "Axes", sweep: Sweep, jobs: list[Job], name: str) -> None:
    """One panel."""
    series: dict[str, list[Job]] = {}
    swept = sweep.keys()
    keys = [key for key in swept if not key.endswith("num_steps")]
    for job in jobs:
        words = [f"{key.rpartition('.')[2]}={job.overrides[key]}" for key in keys if key in job.overrides]
        series.setdefault(" ".join(words), []).append(job)
    for index, (label, members) in enumerate(series.items()):
        members.sort(key=lambda job: cost(job, name))
        colour = f"C{index}" if len(series) <= OWN_COLOURS else "grey"
        places, heights = [cost(job, name) for job in members], [merit(job) for job in members]
        axes.plot(places, heights, "o-", color=colour, markersize=4, linewidth=1, label=label or "all settings")
    best = front(jobs, name)
    steps = [cost(job, name) for job in best], [merit(job) for job in best]
    axes.plot(*steps, color="black", linewidth=6, alpha=0.12, drawstyle="steps-post", zorder=0, label="nothing beats these")
    chosen = recommended(jobs)
    axes.plot([cost(chosen, name)], [merit(chosen)], "*", color="crimson", markersize=14, label=f"use {sweep.label(chosen)}")
    floors = {job.floor for job in jobs}
    if len(floors) == 1 and (floor := floors.pop()) is not None:
        axes.axhline(floor, color="grey", linestyle="--", linewidth=1, label=f"held-out images: {floor:.3g}")
    axes.set(xlabel=AXES[name], xscale="log", ylabel=KINDS[sweep.kind])
    heights = [merit(job) for job in jobs]
    if min(heights) > 0 and max(heights) / min(heights) >= 10:
        axes.set_yscale("log")
    ticks(axes, name, jobs)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def ticks(axes: "Axes", name: str, jobs: list[Job]) -> None:
    """Where evaluations are few and whole, the very numbers, as far as they do not touch; else 1, 2, 5, 10, ..."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    places = sorted({cost(job, name) for job in jobs})
    if name == EVALUATIONS and len(places) <= 12:
        kept = places[:1]
        for place in places:
            if place >= APART * kept[-1]:
                kept.append(place)
        axes.set_xticks(kept, [f"{place:g}" for place in kept])
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
