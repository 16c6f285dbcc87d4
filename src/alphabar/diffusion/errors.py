"""Parts that do not go together, a class for each constraint: the message states it, and whoever knows the choices can advise."""


class NeedsDiscreteSchedule(ValueError):
    """A part sums over the steps of a table, and the schedule has continuous time."""


class NeedsContinuousSchedule(ValueError):
    """A part takes times between steps, and the schedule is a table."""


class NeedsNoiseRange(ValueError):
    """Timesteps are spaced between two noise levels, and the schedule has no first > 0 or no finite last one."""


class NeedsLearnedVariance(ValueError):
    """A part reads the variance of the reverse step from a network that has no channels for it."""


class LeavesVarianceUntrained(ValueError):
    """A network has channels for the variance of the reverse step, and the objective does not train them."""


class NeedsNumSteps(ValueError):
    """A sampler asks for all steps of the schedule, and the schedule has continuous time."""


class MisshapenOutput(ValueError):
    """A network gives an output of another shape than a parameterization reads."""
