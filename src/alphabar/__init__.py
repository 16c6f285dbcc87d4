"""alphabar: diffusion models as experiments you can run, change and compare.

Reading order: `alphabar.diffusion` (the maths, torch only), `alphabar.models` (networks and codecs),
`alphabar.training` (Lightning and Hydra).

A notebook needs the names below, which are imported when they are first asked for: `import alphabar` alone loads nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alphabar.diffusion.denoiser import NetworkDenoiser
    from alphabar.diffusion.objectives.denoising import Denoising
    from alphabar.diffusion.parameterizations import EDM, Epsilon, V, Velocity, X
    from alphabar.diffusion.samplers.ddim import DDIM
    from alphabar.diffusion.samplers.ddpm import DDPM
    from alphabar.diffusion.samplers.dpmpp_2m import DPMpp2M
    from alphabar.diffusion.samplers.euler import Euler
    from alphabar.diffusion.samplers.heun import Heun
    from alphabar.diffusion.samplers.unipc import UniPC
    from alphabar.diffusion.schedules.edm import EDMSchedule
    from alphabar.diffusion.schedules.from_alpha_bar import CosineSchedule
    from alphabar.diffusion.schedules.linear import LinearSchedule
    from alphabar.diffusion.schedules.straight import StraightSchedule
    from alphabar.errors import UserError
    from alphabar.library.model import Model, load
    from alphabar.library.pictures import show
    from alphabar.library.training_run import TrainingRun, train

__version__ = "0.1.0"

_MODULES = {
    "alphabar.diffusion.denoiser": ("NetworkDenoiser",),
    "alphabar.diffusion.objectives.denoising": ("Denoising",),
    "alphabar.diffusion.parameterizations": ("EDM", "Epsilon", "V", "Velocity", "X"),
    "alphabar.diffusion.samplers.ddim": ("DDIM",),
    "alphabar.diffusion.samplers.ddpm": ("DDPM",),
    "alphabar.diffusion.samplers.dpmpp_2m": ("DPMpp2M",),
    "alphabar.diffusion.samplers.euler": ("Euler",),
    "alphabar.diffusion.samplers.heun": ("Heun",),
    "alphabar.diffusion.samplers.unipc": ("UniPC",),
    "alphabar.diffusion.schedules.edm": ("EDMSchedule",),
    "alphabar.diffusion.schedules.from_alpha_bar": ("CosineSchedule",),
    "alphabar.diffusion.schedules.linear": ("LinearSchedule",),
    "alphabar.diffusion.schedules.straight": ("StraightSchedule",),
    "alphabar.errors": ("UserError",),
    "alphabar.library.model": ("Model", "load"),
    "alphabar.library.pictures": ("show",),
    "alphabar.library.training_run": ("TrainingRun", "train"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "DDIM",
    "DDPM",
    "EDM",
    "CosineSchedule",
    "DPMpp2M",
    "Denoising",
    "EDMSchedule",
    "Epsilon",
    "Euler",
    "Heun",
    "LinearSchedule",
    "Model",
    "NetworkDenoiser",
    "StraightSchedule",
    "TrainingRun",
    "UniPC",
    "UserError",
    "V",
    "Velocity",
    "X",
    "load",
    "show",
    "train",
]


def __getattr__(name: str) -> object:
    """Returns one of the names of `__all__`, whose module is imported now (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'alphabar' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    """Returns the names of the module, those that are not loaded yet among them."""
    return sorted({*globals(), *__all__})
