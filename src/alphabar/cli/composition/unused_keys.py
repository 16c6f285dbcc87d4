"""Finds overrides that would have no effect: keys that nothing takes, given the choices of the command line."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from alphabar.cli.composition.hydra_app import App
from alphabar.cli.composition.overrides import split_override, without_prefix
from alphabar.config.interpolation import unresolved_container

REFERENCE = re.compile(r"\$\{(\w+)[.\[}]")


def unused_overrides(app: App, cfg: DictConfig, words: Sequence[str], choices: Mapping[str, str]) -> list[str]:
    """Returns one line for every `key=value` whose key no value of the configuration interpolates.

    The keys of the command's main file always count as used, since its code reads them.

    choices: the choice of each group.
    """
    taken = app.main_keys() | referenced_keys(unresolved_container(cfg)) | app.groups.keys()
    lines = []
    for word in words:
        key, value = split_override(word)
        name = without_prefix(key)
        if value is None or key.startswith("~") or not name.isidentifier():
            continue
        if name == "run_dir":
            lines.append(f"{word}: is filled in; the folder of a run is chosen by hydra.run.dir={value}")
        elif name == "choices":
            lines.append(f"{word}: is filled in with the choice of each group; a group is chosen by group=choice")
        elif name not in taken:
            lines.append(f"{word}: nothing takes {name}{_choices_with(app, name, choices)}")
    return lines


def referenced_keys(content: Any) -> set[str]:
    """Returns the keys at the root that the unresolved content interpolates: {"schedule"} for "${schedule.num_steps}"."""
    return set(REFERENCE.findall(str(content)))


def _choices_with(app: App, key: str, choices: Mapping[str, str]) -> str:
    """Returns which choice does not take the key, and which others of its group do."""
    for group, names in app.groups.items():
        takers = [name for name in names if key in referenced_keys(app.yaml_content(f"{group}/{name}"))]
        if takers and group in choices:
            return f" with {group}={choices[group]}; what does: {group}={', '.join(takers)}"
    return " here"
