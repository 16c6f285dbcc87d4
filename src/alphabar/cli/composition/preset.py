"""Choice of a preset, a method, features and a batch size by the chosen data and the machine."""

import logging
import math
from collections.abc import Sequence

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType

from alphabar.cli.composition.hydra_app import App
from alphabar.cli.composition.overrides import split_override, without_prefix
from alphabar.cli.machine import has_gpu

log = logging.getLogger(__name__)
WITH_CLASSES = ("digits", "torchvision")  # data whose images always have classes
LAPTOP = "laptop"
LAPTOP_METHOD = "flow"  # makes more of a few thousand steps than ddpm does
METHOD_GROUPS = {"schedule", "parameterization", "weighting", "times", "objective", "sampler", "thresholding"}  # that it chooses
LAPTOP_PIXELS = 32 * 32 * 32  # in a batch on a CPU


def preset_for(data: str) -> str:
    """Returns the choice of the group `preset` for a choice of the group `data`: the one of the same name, or the machine's."""
    presets = GlobalHydra.instance().config_loader().get_group_options("preset", ObjectType.CONFIG)
    return data if data in presets else machine_preset()


def machine_preset() -> str:
    """Returns the preset that suits this machine."""
    return "one_gpu" if has_gpu() else LAPTOP


def features_for(data: str) -> str:
    """Returns the choice of the group `features` for a choice of the group `data`."""
    return "classifier" if data in WITH_CLASSES else "selfsup"


def laptop_batch_size(resolution: object) -> int:
    """Returns the number of images of `resolution` in a batch, a power of 2 from 8 to 64; 32 where the data alone know the size.

    resolution: one number or two. Anything else is refused elsewhere, by its own key.
    """
    size = resolution if isinstance(resolution, Sequence) else [resolution, resolution]
    known = len(size) == 2 and all(isinstance(side, int | float) for side in size)
    wanted = LAPTOP_PIXELS // max(math.prod(size) if known else 32 * 32, 1)
    return next((size for size in (64, 32, 16) if size <= wanted), 8)


def method_of_preset(app: App, words: Sequence[str]) -> list[str]:
    """Returns `method=flow` for a run with preset=laptop whose overrides leave the method open, and nothing for others.

    A preset that Hydra finds by interpolation may not choose the groups of a method itself. Overrides that name an experiment, or a
    group that a method chooses, such as schedule=cosine, leave nothing open.
    """
    if app.main_name != app.name or "preset" not in app.main_groups() & app.groups.keys():
        return []
    chosen = {without_prefix(key): value for key, value in map(split_override, words)}
    data, resumed = chosen.get("data") or "digits", chosen.get("resume") or "auto"
    preset = chosen.get("preset") or (data if data in app.choices()["preset"] else machine_preset())
    is_open = not ({"method", "experiment"} | METHOD_GROUPS) & chosen.keys()
    is_open &= not any(key.startswith("schedule.") for key in chosen)
    is_one = "," not in data  # else each job of a sweep decides for itself
    if preset == LAPTOP and resumed == "auto" and not {"method", "experiment"} & chosen.keys() and not is_open:
        part = next(key for key in chosen if key in METHOD_GROUPS or key.startswith("schedule."))
        both = f"method={LAPTOP_METHOD} beside it takes both"
        log.info(
            "method: ddpm, since %s is chosen; preset=%s has method=%s, with a %s of its own: %s",
            part,
            LAPTOP,
            LAPTOP_METHOD,
            part.partition(".")[0],
            both,
        )
    return [f"method={LAPTOP_METHOD}"] if preset == LAPTOP and resumed == "auto" and is_open and is_one else []
