"""A configuration in words."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

METHODS = {
    ("LinearSchedule", "Epsilon", "Denoising"): "DDPM",
    ("CosineSchedule", "Epsilon", "Hybrid"): "improved DDPM",
    ("EDMSchedule", "EDM", "Denoising"): "EDM",
    ("StraightSchedule", "Velocity", "Denoising"): "rectified flow",
    ("CosineSchedule", "V", "Denoising"): "v-prediction",
}  # schedule, parameterization and objective; other combinations have no name
PARTS = ("schedule", "parameterization", "objective", "sampler", "network", "codec", "data", "optimizer", "ema")


def loaded(content: str) -> dict[str, Any] | None:
    """The configuration, or None if it is no YAML of one."""
    try:
        config = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def method(config: Mapping[str, Any]) -> str:
    """The paper's name for this combination, if it has one."""
    given = config.get("method")
    if isinstance(given, str):
        return given
    names = tuple(target(config.get(part)) for part in ("schedule", "parameterization", "objective"))
    return METHODS.get(names, "") if len(names) == 3 else ""


def target(node: object) -> str:
    """The name of the class that a node builds."""
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, Mapping) else ""


def in_words(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, which) for everything that makes this run what it is."""
    rows = [("method", method(config))]
    rows += [(part, described(part, config.get(part))) for part in PARTS]
    shape, trainer = config.get("shape"), config.get("trainer")
    if isinstance(shape, Mapping):
        size, channels = shape.get("resolution"), shape.get("channels")
        rows.append(("images", f"{size} x {size}, {channels} channel{'' if channels == 1 else 's'}"))
    if isinstance(trainer, Mapping):
        rows.append(("precision", str(trainer.get("precision", ""))))
    rows.append(("seed", str(config.get("seed", ""))))
    return [(what, which) for what, which in rows if which]


def described(part: str, node: object) -> str:
    """Linear: num_steps 1000, beta_start 0.0001, beta_end 0.02"""
    if not isinstance(node, Mapping):
        return "" if node is None else str(node)
    settings = []
    for key, value in node.items():
        if str(key).startswith("_") or value is None or value is False or value == []:
            continue
        shown = _part(str(key), value) if isinstance(value, Mapping) else _plain(value)
        settings.append(f"{key} {shown}")
    name = spaced(part, target(node))
    return f"{name}: {', '.join(settings)}" if settings and name else name or ", ".join(settings)


def spaced(part: str, name: str) -> str:
    """SoftMinSNR as "Soft Min SNR", and the schedule LinearSchedule as "Linear"."""
    short = name.removesuffix(part.capitalize()) or name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", short)


def _part(key: str, node: Mapping[str, Any]) -> str:
    """Min SNR (gamma 5): what lies deeper is left out."""
    kept = {name: value for name, value in node.items() if isinstance(value, int | float | str)}
    name, _, settings = described(key, kept).partition(": ")
    return f"{name} ({settings})" if settings else name


def _plain(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)
