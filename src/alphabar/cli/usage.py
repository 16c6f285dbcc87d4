"""The text that `--help` prints."""

import shutil
import textwrap
from string import Template

from alphabar.cli.hydra_app import App


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
    return Template(cfg.hydra.help.template).safe_substitute(GROUPS="\n".join(lines)).rstrip()
