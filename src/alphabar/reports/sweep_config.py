"""The configurations of a sweep's jobs: what they have in common, and what differs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alphabar.reports.config_summary import summarise_config
from alphabar.runs.resume import is_in_module, leaves

OF_A_FOLDER = ("run_dir", "resume", "name")  # keys that differ between any two runs


class CommonConfig(NamedTuple):
    """The settings that the configurations of jobs have in common, and those in which they differ.

    summary: pairs of a part and its settings. content: the common leaves, a line for each. keys: those that differ; that of a part
    stands for its class. rows: for each job its name and its values of these.
    """

    summary: Sequence[tuple[str, str]]
    content: str
    keys: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def common_config(configs: Mapping[str, Mapping[str, Any]]) -> CommonConfig | None:
    """Returns what the configurations, by the names of their jobs, have in common; None if there are none."""
    flat = {name: {key: str(value) for key, value in leaves(dict(config))} for name, config in configs.items()}
    keys = [key for key in dict.fromkeys(key for values in flat.values() for key in values) if is_shown(key)]
    if not keys:
        return None
    same = [key for key in keys if len({values.get(key) for values in flat.values()}) == 1]
    unlike = [key for key in keys if key not in same]
    columns = [shown_column(key, [values.get(key, "") for values in flat.values()]) for key in unlike]
    return CommonConfig(
        summarise_config(without_leaves(next(iter(configs.values())), unlike)),
        "\n".join(f"{key}: {next(iter(flat.values()))[key]}" for key in same),
        [title for title, _ in columns],
        [(name, [values[place] for _, values in columns]) for place, name in enumerate(flat)],
    )


def shown_column(key: str, values: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Returns a key with its values as people read them: schedule, EDMSchedule for a class, unless two have that name."""
    node, _, last = key.rpartition(".")
    names = [value.rpartition(".")[2] for value in values]
    is_class = last == "_target_" and len(set(names)) == len(set(values))
    return (node, names) if is_class else (key, values)


def is_shown(key: str) -> bool:
    """Returns whether a key says something about the job itself; the module repeats the values of other keys."""
    return key not in OF_A_FOLDER and not is_in_module(key)


def without_leaves(config: Mapping[str, Any], keys: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Returns the configuration without the leaves at these dotted keys."""
    return {
        name: without_leaves(value, keys, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in config.items()
        if f"{prefix}{name}" not in keys
    }
