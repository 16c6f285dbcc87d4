"""Explains which overrides of a command line are wrong, and suggests what was probably meant."""

import re
import shlex
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from alphabar.cli.composition.hydra_app import App
from alphabar.cli.composition.overrides import OPTIONAL_GROUPS, parse_override, quoted, split_override, without_prefix
from alphabar.cli.composition.own_groups import group_meant
from alphabar.config.build import with_path
from alphabar.config.former_names import FORMER_KEYS, FORMER_PLACES
from alphabar.config.interpolation import unresolved_container
from alphabar.config.roles import misplaced
from alphabar.errors import did_you_mean
from alphabar.runs.folders.run_dir import readable_config
from alphabar.runs.folders.run_links import refuse_links
from alphabar.runs.provenance.current_command import with_invocations

PLUGINS = {
    "ax": "hydra-ax-sweeper",
    "colorlog": "hydra-colorlog",
    "joblib": "hydra-joblib-launcher",
    "nevergrad": "hydra-nevergrad-sweeper",
    "optuna": "hydra-optuna-sweeper",
    "ray": "hydra-ray-launcher",
    "rq": "hydra-rq-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}


def diagnose(app: App, words: list[str], is_sweep: bool, resumed: str | None = None) -> list[str]:
    """Returns one line for every override that is wrong, as far as can be seen without building anything.

    resumed: the folder of the run that is resumed; values are judged against its configuration.
    """
    groups = app.choices() | app.hydra_groups()
    lines, words = _spaces_at_equals(words)
    read = [_parse_or_explain(word, groups) for word in words]
    lines += [text for text in read if isinstance(text, str)]
    overrides = [override for override in read if isinstance(override, Override)]
    known = _KnownKeys(app, overrides, groups, resumed)
    if known.wrong_choices:
        return list(dict.fromkeys([*lines, *known.wrong_choices]))
    for override in overrides:
        lines += known.problems(override, is_sweep)
    return list(dict.fromkeys(lines))


def _spaces_at_equals(words: list[str]) -> tuple[list[str], list[str]]:
    """Returns a line for each `key= value`, `key =value` and `key = value`, and the words that belong to none of them."""
    lines, others = [], []
    rest = list(words)
    while rest:
        word, *rest = rest
        follower = rest[0] if rest else None
        is_key = re.fullmatch(r"[+~]*[\w./@-]+", word) is not None
        if follower is not None and is_key and follower.startswith("="):  # key =value, key = value
            rest = rest[1:]
            value = follower[1:] or (rest.pop(0) if rest else "")
            lines.append(f"{word} ={value}: there is a space before the =; write {word}={value}")
        elif follower is not None and word.endswith("=") and "=" not in follower and not follower.startswith(("-", "~")):
            rest = rest[1:]
            lines.append(f"{word} {follower}: there is a space after the =; write {word}{shlex.quote(follower)}")
        else:
            others.append(word)
    return lines, others


def _parse_or_explain(word: str, groups: dict[str, list[str]]) -> Override | str:
    """Returns the parsed override, or a line that says what is wrong with it."""
    key, value = split_override(word)
    if word.startswith("-"):
        return f"{word}: there is no such option; values are given without dashes, as key=value: {word.lstrip('-')}"
    if value is not None and not without_prefix(key):
        return f"{word}: there is no key before the ="
    if (override := parse_override(word)) is not None:
        return override
    if value is None:
        group, _, choice = key.replace(".", "/").rpartition("/")
        meant = f"{group}={choice}" if choice in groups.get(group, ()) else f"{key}=..."
        return f"{word}: the word has no value. Did you mean {meant}?"
    as_text = shlex.quote(f"{key}={quoted(value)}")
    if value.count('"') % 2 or value.count("'") % 2:
        return f"{word}: the quotes do not close; a text with quotes in it is written {as_text}"
    return f"{word}: the value cannot be read; if it is a text, put it in quotes: {as_text}"


class _KnownKeys:
    """The keys and groups that exist, given the groups that a command line chooses."""

    def __init__(self, app: App, overrides: list[Override], groups: dict[str, list[str]], resumed: str | None) -> None:
        self.app = app
        self.groups = groups
        self.objects = {  # the keys at which the command line puts an object of its own
            override.key_or_group.removesuffix("._target_") for override in overrides if override.key_or_group.endswith("._target_")
        }
        chosen = [override for override in overrides if override.key_or_group in groups]
        self.default, self.tree = _compose(app, chosen, groups)
        self.choices = _choices(self.tree)
        # A line for each chosen file that has no object although its group needs one: keys that it lacks are not to blame.
        self.wrong_choices = [with_path(path, reason) for path, reason in misplaced(self.tree) if str(path[0]) in self.choices]
        if resumed is not None and Path(resumed).is_dir():
            refuse_links(Path(resumed))
        if resumed is not None and (config := readable_config(Path(resumed))) is not None:
            replaced = {override.key_or_group for override in chosen}
            saved = {key: value for key, value in unresolved_container(config).items() if key not in replaced}
            roots = {key: value if key in (*replaced, "hydra") else None for key, value in self.tree.items()}
            self.tree = roots | saved
        self.keys = list(_keys(self.tree))

    def problems(self, override: Override, is_sweep: bool) -> Iterator[str]:
        """Yields a line for everything that is wrong with one override that could be parsed."""
        word, key = str(override.input_line), override.key_or_group
        is_addition = override.is_add() or override.is_force_add()
        if override.is_sweep_override() and not is_sweep:
            yield (
                f"{word}: several values are a sweep, which needs -m ({with_invocations(f'python {self.app.name}.py')} -m ...); "
                f"a list is written '{key}=[...]', a text with commas in it '{key}=\"...\"'"
            )
        elif key in self.groups:
            reason = self._second_choice(override) if is_addition else self._required_group(override)
            reason = reason or self._unused_group(override)
            if reason := reason or _choice_problem(override, self.groups[key]):
                yield f"{word}: {reason}"
        elif is_addition:
            if not self._could_be_taken(override):
                yield f"{word}: nothing takes a key {key}{self._suggestion(override) or self._siblings(key)}"
        elif key not in self.keys:
            yield f"{word}: there is no key {key}{self._suggestion(override) or self._siblings(key)}{self._plus_hint(override)}"

    def _unused_group(self, override: Override) -> str | None:
        """Returns why this command, or its other choices, do not use a group; None if they do, or if the group is the user's."""
        group = override.key_or_group
        chosen = self.choices
        if group.startswith("hydra/") or not chosen or group in chosen:
            return None
        if not (self.app.folder / group).is_dir():
            meant = group_meant(group, chosen)
            needs_plus = f"this command has no group {group} by itself; to add it: +{override.input_line}{meant}"
            return None if override.is_add() or override.is_force_add() else needs_plus
        others = ", ".join(sorted(name for name in chosen if not name.startswith("hydra/")))
        return f"nothing takes {group} here; the groups that go with this command and its other choices: {others}"

    def _required_group(self, override: Override) -> str | None:
        """Returns why a group cannot be left out; None if it is not left out, or if nothing would be missing."""
        group = override.key_or_group
        if not override.is_delete() or group in OPTIONAL_GROUPS or group not in self.default:
            return None
        return f"{group} is needed; {group} takes: {', '.join(self.groups[group])}"

    def _second_choice(self, override: Override) -> str | None:
        group = override.key_or_group
        if override.is_force_add() or group not in _choices(self.default):
            return None
        return f"{group} is chosen already; to choose another, leave the + out: {group}={override.get_value_element_as_str()}"

    def _could_be_taken(self, override: Override) -> bool:
        """Returns whether something could take the added key: an object, whose arguments are checked later, or its container."""
        *parents, _ = override.key_or_group.split(".")
        value = {} if override.is_sweep_override() else override.value()
        if override.key_or_group in self.keys or parents[:1] == ["hydra"]:
            return True
        if any(".".join(parents[:depth]) in self.objects for depth in range(1, len(parents) + 1)):
            return True
        node: Any = self.tree
        for depth in range(len(parents) + 1):
            if isinstance(node, str) or (isinstance(node, dict) and "_target_" in node):
                return True
            node = node.get(parents[depth]) if isinstance(node, dict) and depth < len(parents) else None
        is_object = "_target_" in override.key_or_group or (isinstance(value, dict) and "_target_" in value)
        return bool(parents) and is_object

    def _suggestion(self, override: Override) -> str:
        """Returns the suggestion that follows an unknown key; an empty text if no known key is similar."""
        key = override.key_or_group
        renamed = FORMER_PLACES.get(key) or ".".join(FORMER_KEYS.get(part, part) for part in key.split("."))
        if renamed != key and (renamed in self.keys or renamed in self.groups):
            return f". Did you mean {renamed}{str(override.input_line).removeprefix(key)}?"
        parent, _, last = key.replace("/", ".").rpartition(".")
        for value in _values(override):
            if value in self.groups.get(last, ()):
                return f". Did you mean {last}={value}?"
        if last in self.groups.get(parent, ()):
            return f". Did you mean {parent}={last}?"
        same_end = sorted((known for known in self.keys if known.endswith(f".{key}")), key=len)
        nearest = same_end[:1] or get_close_matches(key, [*self.keys, *self.groups], n=1, cutoff=0.7)
        return f". Did you mean {nearest[0]}?" if nearest else ""

    def _siblings(self, key: str) -> str:
        """Returns a list of the keys that stand beside an unknown one; an empty text if there are none."""
        parent = key.rpartition(".")[0]
        others = [known.rpartition(".")[2] for known in self.keys if known.rpartition(".")[0] == parent]
        named = [name for name in others if not name.startswith("_")]
        return f". {parent} has: {', '.join(named)}." if parent and named else ""

    def _plus_hint(self, override: Override) -> str:
        """Returns how to give an argument that the YAML does not list; an empty text if the key is probably a typing error."""
        key = override.key_or_group
        parent, _, last = key.rpartition(".")
        is_slip = last in self.groups or get_close_matches(key, self.keys, n=1, cutoff=0.9)
        if f"{parent}._target_" not in self.keys or override.is_delete() or is_slip or key in FORMER_PLACES:
            return ""
        return f" An argument that the YAML does not list needs a +: +{override.input_line}"


def _choices(tree: Any) -> dict[str, str]:
    """Returns the choice of each group of a composed configuration; nothing if it could not be composed."""
    return tree.get("hydra", {}).get("runtime", {}).get("choices", {})


def _compose(app: App, chosen: list[Override], groups: dict[str, list[str]]) -> tuple[Any, Any]:
    """Returns the default configuration, and the configuration with the valid choices and no other override."""
    sound = [override for override in chosen if not _choice_problem(override, groups[override.key_or_group])]
    words = [
        f"{'+' if override.is_add() and not (app.folder / override.key_or_group).is_dir() else ''}"
        f"{override.key_or_group}={_values(override)[0]}"
        for override in sound
        if _values(override)
    ]
    placed: list[str] = []
    default: Any = {}
    tree: Any = {}
    for word in [None, *words]:  # one by one, since a choice may leave no place for another
        attempt = placed if word is None else [*placed, word]
        try:
            tree = unresolved_container(app.compose(attempt))
        except (HydraException, OmegaConfBaseException):
            continue
        placed = attempt
        default = default or tree
    return default, tree


def _choice_problem(override: Override, choices: list[str]) -> str | None:
    group = override.key_or_group
    takes = f"{group} takes: {', '.join(choices)}"
    for value in _values(override):
        if value in choices:
            continue
        if package := PLUGINS.get(str(value)) if group.startswith("hydra/") else None:
            return f"{value} comes with the package {package}, which is not installed: pip install {package}"
        if value in ("", None):
            return f"no choice given. {takes}"
        unknown = f"no such choice as {value}" if override.is_sweep_override() else "no such choice"
        return f"{unknown}{did_you_mean(str(value), choices) or '.'} {takes}"
    return None


def _values(override: Override) -> list[Any]:
    """Returns the values of an override: several for a sweep or a list, none for a deletion."""
    if override.is_delete():
        return []
    if override.is_sweep_override():
        return [value.strip("'\"") for value in override.sweep_string_iterator()] if override.is_discrete_sweep() else []
    value = override.value()
    return list(value) if isinstance(value, list) else [value]


def _keys(content: Any, prefix: str = "") -> Iterator[str]:
    """Yields the dotted keys of a mapping and of all mappings nested in it."""
    for key, value in content.items() if isinstance(content, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")
