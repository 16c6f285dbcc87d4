"""Warnings about the user's own YAML files in folders that are no group, which would be ignored in silence."""

import logging
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from alphabar.cli.composition.hydra_app import App
from alphabar.cli.composition.overrides import split_override, without_prefix
from alphabar.errors import did_you_mean
from alphabar.files.paths import display_path
from alphabar.runs.processes.slurm import OF_A_SWEEP

log = logging.getLogger(__name__)
# The names of our groups in other projects.
MEANT = {
    "architecture": "network",
    "backbone": "network",
    "dataset": "data",
    "datamodule": "data",
    "loss": "objective",
    "metric": "statistics",
    "model": "network",
    "net": "network",
    "noise_schedule": "schedule",
    "optim": "optimizer",
    "statistic": "statistics",
}


def warn_of_unknown_groups(app: App, words: Sequence[str]) -> None:
    """Warns about each folder of YAML files of the user whose name is no group, unless an override or a list of defaults names it.

    A job of a sweep does not warn, since its sweep did. words: the overrides of the command line.
    """
    if OF_A_SWEEP in os.environ:
        return
    ours = {path.name for path in app.folder.iterdir() if path.is_dir()}
    for folder in map(Path, app.yaml_folders()):
        if folder.is_dir() and folder != app.folder:
            for group in _unknown_groups(folder, ours, words):
                line = f"no command has a group {group}, and nothing takes these files{group_meant(group, ours)}"
                log.warning("%s: %s", display_path(folder / group), line)


def group_meant(name: str, groups: Collection[str]) -> str:
    """Returns ". Did you mean GROUP?" for the name of an unknown group; an empty text if no group is similar."""
    known = MEANT.get(name) or MEANT.get(name.removesuffix("s"))
    return f". Did you mean {known}?" if known else did_you_mean(name, groups)


def _unknown_groups(folder: Path, ours: Collection[str], words: Sequence[str]) -> Iterator[str]:
    """Yields the folders in one of the user's folders that neither an override nor a list of defaults names."""
    named = {re.split(r"[@/]", without_prefix(split_override(word)[0]))[0] for word in words}
    groups = [path for path in folder.iterdir() if path.is_dir() and path.name not in {*ours, *named, "hydra"}]
    for group in sorted(groups):
        in_defaults = re.compile(rf"^\s*-\s+(override\s+)?/?{re.escape(group.name)}[@/:]", re.MULTILINE)
        if any("_target_" in _text(file) for file in group.glob("*.yaml")):
            files = (file for place in (folder, *(folder / name for name in ours)) for file in place.glob("*.yaml"))
            if not any(in_defaults.search(_text(file)) for file in (*files, *group.glob("*.yaml"))):
                yield group.name


def _text(file: Path) -> str:
    """Returns the text of a file, or an empty text if it cannot be read: errors are reported when the file is chosen."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
