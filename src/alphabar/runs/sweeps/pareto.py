"""Recommends a setting of a sweep: it weighs figures of merit against the cost of an image, both averaged over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from alphabar.runs.sweeps.sweep import COSTS, NETWORK_EVALUATIONS, SEED_KEY, Job, Sweep, comparable_part, jobs_by_setting

TOLERANCE = 0.05  # of the best figure: a setting within it is preferred where it costs less


@dataclass(frozen=True)
class Setting:
    """The overrides of one or more jobs that differ in their seed alone, with the means of their figures and costs.

    job: the first of them.
    """

    overrides: dict[str, str]
    figure: float
    costs: dict[str, float]
    job: Job


@dataclass(frozen=True)
class CostTradeOff:
    """The settings of a sweep that differ in how many network evaluations an image takes."""

    sweep: Sweep
    settings: Sequence[Setting]

    @property
    def metric(self) -> str:
        return self.sweep.metric

    def is_comparable(self) -> bool:
        """Returns whether all figures were measured by protocols that differ only in weights and sampler."""
        return len({(comparable_part(each.job.figure_name), each.job.protocol) for each in self.settings}) == 1

    def costs(self) -> list[str]:
        """Returns the costs that are known of all settings."""
        return [name for name in COSTS if all(name in each.costs for each in self.settings)]

    def best(self) -> Setting:
        """Returns the setting with the lowest figure."""
        return min(self.settings, key=lambda each: each.figure)

    def recommended(self) -> Setting:
        """Returns the setting with the fewest evaluations among those whose figure is at most 5% above the best.

        Of several with the same number of evaluations it is the better one.
        """
        best = self.best().figure
        good = [each for each in self.settings if each.figure <= best + TOLERANCE * abs(best)]
        return min(good, key=lambda each: (each.costs[NETWORK_EVALUATIONS], each.figure))

    def label(self, setting: Setting) -> str:
        """Returns the setting's values of the swept keys, as overrides."""
        return self.sweep.label(setting.overrides)

    def label_without_steps(self, setting: Setting) -> str:
        """Returns the setting's values of the swept keys, without the number of steps, and with short keys."""
        keys = [key for key in self.sweep.swept_keys() if not key.endswith("num_steps") and key in setting.overrides]
        return " ".join(f"{key.rpartition('.')[2]}={setting.overrides[key]}" for key in keys)


def cost_trade_off(sweep: Sweep) -> CostTradeOff | None:
    """Returns the settings of the jobs with a figure and a cost, or None if they all cost the same."""
    measured = [job for job in sweep.jobs if job.figure is not None and job.cost(NETWORK_EVALUATIONS) is not None]
    settings = [_mean_setting(jobs) for jobs in jobs_by_setting(measured)]
    if len({each.costs[NETWORK_EVALUATIONS] for each in settings}) < 2:
        return None
    return CostTradeOff(sweep, settings)


def _mean_setting(jobs: Sequence[Job]) -> Setting:
    overrides = {key: value for key, value in jobs[0].overrides.items() if key != SEED_KEY}
    costs = {name: [cost for job in jobs if (cost := job.cost(name)) is not None] for name in COSTS}
    figure = fmean(job.figure for job in jobs if job.figure is not None)
    return Setting(overrides, figure, {name: fmean(values) for name, values in costs.items() if values}, jobs[0])


def pareto_front(settings: Sequence[Setting], cost: str) -> list[Setting]:
    """Returns the settings that no other one beats both in this cost and in the figure, the cheapest first."""
    front: list[Setting] = []
    for setting in sorted(settings, key=lambda each: (each.costs[cost], each.figure)):
        if not front or setting.figure < front[-1].figure:
            front.append(setting)
    return front
