"""A run's configuration as a few lines of text."""

import re
from collections.abc import Mapping
from typing import Any

from alphabar.config.stored import parse_stored_yaml
from alphabar.errors import UserError

METHODS = {
    ("LinearSchedule", "Epsilon", "Denoising"): "DDPM",
    ("CosineSchedule", "Epsilon", "Hybrid"): "improved DDPM",
    ("EDMSchedule", "EDM", "Denoising"): "EDM",
    ("StraightSchedule", "Velocity", "Denoising"): "rectified flow",
    ("CosineSchedule", "V", "Denoising"): "v-prediction",
}  # by schedule, parameterization and objective; other combinations have no name
PARTS = ("schedule", "parameterization", "objective", "sampler", "network", "codec", "data", "optimizer", "ema")


def parse_config(content: str) -> dict[str, Any] | None:
    """Returns the configuration in a YAML text, or None if the text is not that of a stored configuration."""
    try:
        return parse_stored_yaml(content, "config.yaml")
    except UserError:
        return None


def method_name(config: Mapping[str, Any]) -> str:
    """Returns the name that papers have for this schedule, parameterization and objective; "" for other combinations."""
    if isinstance(method := config.get("method"), str):
        return method
    schedule, parameterization, objective = (class_name(config.get(part)) for part in ("schedule", "parameterization", "objective"))
    return METHODS.get((schedule, parameterization, objective), "")


def class_name(node: object) -> str:
    """Returns the name of the class that a node builds, without its module; "" for a node without `_target_`."""
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, Mapping) else ""


def summarise_config(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns pairs of a part and its settings, for every part that makes the run what it is."""
    rows = [("method", method_name(config))]
    rows += [(part, describe_part(part, config.get(part))) for part in PARTS]
    shape, trainer = config.get("shape"), config.get("trainer")
    if isinstance(shape, Mapping):
        size, channels = shape.get("resolution"), shape.get("channels")
        height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
        rows.append(("images", f"{height} x {width}, {channels} channel{'' if channels == 1 else 's'}"))
    if isinstance(trainer, Mapping):
        rows.append(("precision", str(trainer.get("precision", ""))))
    rows.append(("seed", str(config.get("seed", ""))))
    return [(part, settings) for part, settings in rows if settings]


def describe_part(part: str, node: object) -> str:
    """Returns a node as text, such as "Linear: num_steps 1000, beta_start 0.0001, beta_end 0.02"."""
    if not isinstance(node, Mapping):
        return "" if node is None else str(node)
    settings = []
    for key, value in node.items():
        if str(key).startswith("_") or value is None or value is False or value == []:
            continue
        if described := _describe_nested(str(key), value) if isinstance(value, Mapping) else _format_value(value):
            settings.append(f"{key} {described}")
    title = split_words(part, class_name(node))
    return f"{title}: {', '.join(settings)}" if settings and title else title or ", ".join(settings)


def split_words(part: str, name: str) -> str:
    """Returns a class's name as words: SoftMinSNR as "Soft Min SNR", and the schedule LinearSchedule as "Linear"."""
    short = name.removesuffix(part.capitalize()) or name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", short)


def _describe_nested(key: str, node: Mapping[str, Any]) -> str:
    """Returns a node inside a node, such as "Min SNR (gamma 5)", without the nodes inside that."""
    scalars = {name: value for name, value in node.items() if isinstance(value, int | float | str)}
    title, _, settings = describe_part(key, scalars).partition(": ")
    return f"{title} ({settings})" if settings else title


def _format_value(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)
