"""The text that `--help` and `--help GROUP` print."""

import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from string import Template

from omegaconf import OmegaConf

from alphabar.cli.composition.hydra_app import App
from alphabar.errors import UserError, did_you_mean
from alphabar.runs.provenance.current_command import with_invocations

NOT_SETTINGS = ("_target_", "_partial_", "defaults")  # keys of a YAML file that are no settings of its object


def usage(app: App, overrides: list[str]) -> str:
    """Returns the app's template of conf/hydra/help/ with its groups and their choices, the default marked, for $GROUPS."""
    cfg = app.compose(overrides)
    groups = app.choices()
    choices: dict[str, str] = dict(cfg.hydra.runtime.choices)
    chosen = {group: choice for group, choice in choices.items() if group in groups}
    width = max((len(group) for group in chosen), default=0)
    columns = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = []
    for group, choice in reversed(chosen.items()):  # in the order of the defaults list
        words = [f"{name}*" if name == choice else name for name in groups[group]]
        indent = " " * (width + 4)
        lines.append(textwrap.fill(", ".join(words), columns, initial_indent=f"  {group:{width}}  ", subsequent_indent=indent))
    return Template(with_invocations(cfg.hydra.help.template)).safe_substitute(GROUPS="\n".join(lines)).rstrip()


def group_usage(app: App, groups: Sequence[str]) -> str:
    """Returns, for each group, its choices with the first comment and the keys of their YAML files.

    Raises UserError for a word that names no group.
    """
    known = app.choices()
    for group in groups:
        if group not in known:
            hint = did_you_mean(group, known) or f". The groups: {', '.join(sorted(known))}"
            raise UserError(f"--help {group}: there is no group of this name{hint}")
    return "\n\n".join("\n".join(_group_lines(app, group, known[group])) for group in groups)


def _group_lines(app: App, group: str, choices: Sequence[str]) -> list[str]:
    """Returns the lines of one group: each choice, its comment, and its keys as they are written on the command line."""
    lines = [f"{group}=CHOICE takes, with the keys that each sets:"]
    for choice in choices:
        path = f"{group}/{choice}"
        content = {key: value for key, value in app.yaml_content(path).items() if key not in NOT_SETTINGS}
        lines.append(f"  {choice:<24} {with_invocations(_first_comment(app, path))}".rstrip())
        lines += textwrap.indent(OmegaConf.to_yaml(OmegaConf.create(content)), "    ").splitlines() if content else []
    return lines


def _first_comment(app: App, path: str) -> str:
    """Returns the first line of a YAML file that is a comment for people, or "" if it has none."""
    for place in app.yaml_folders():
        file = Path(place) / f"{path}.yaml"
        if file.is_file():
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
            return next((line.lstrip("# ") for line in lines if "@package" not in line), "")
    return ""
