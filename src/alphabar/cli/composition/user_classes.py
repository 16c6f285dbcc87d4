"""The user's own classes: those that are composed may be built, and those of trusted modules may be named in files."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import Parameter

from omegaconf import DictConfig, OmegaConf, open_dict

from alphabar.cli.composition.overrides import override_texts
from alphabar.config.allowed_targets import allowing, locate
from alphabar.config.interpolation import dotted_path, unresolved_container, walk
from alphabar.config.signatures import accepted_parameters
from alphabar.config.trust import trusting
from alphabar.errors import UserError

log = logging.getLogger(__name__)
MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")  # the dotted name of a module
TARGET = "._target_"


@contextmanager
def user_classes(cfg: DictConfig) -> Iterator[None]:
    """Allows the classes that the user has composed, and trusts the modules in `trust`.

    Raises UserError unless `trust` is a list of names.
    """
    with allowing(composed_targets(cfg)), trusting(trusted_modules(cfg)):
        yield


def composed_targets(cfg: DictConfig) -> set[str]:
    """Returns the names of the classes in a composed configuration, without those of Hydra's own part."""
    content = {key: value for key, value in unresolved_container(cfg).items() if key != "hydra"}
    nodes = [(path, node) for path, node in walk(content, content) if isinstance(node, dict) and "_target_" in node]
    names = [
        OmegaConf.select(cfg, dotted_path((*path, "_target_")), throw_on_resolution_failure=False)
        if "${" in str(node["_target_"])  # to resolve all of it would take longer
        else node["_target_"]
        for path, node in nodes
    ]
    return {name for name in names if isinstance(name, str)}


def trusted_modules(cfg: DictConfig) -> list[str]:
    """Returns the modules in `trust`. Raises UserError unless they are a list of names."""
    modules = unresolved_container(cfg).get("trust") or []
    if not isinstance(modules, list) or not all(isinstance(each, str) and MODULE.fullmatch(each) for each in modules):
        raise UserError(f"trust={modules}: need a list of modules, as in trust=[mylab]")
    return modules


def leave_out_former_arguments(cfg: DictConfig, words: Sequence[str]) -> None:
    """Removes the arguments of the replaced class where the command line names another, as in `network._target_=mylab.Net`.

    Arguments that the new class takes as well are kept, which a line says where its own default is another, and so are all that the
    command line gives.
    """
    given = override_texts(words)
    for place in [key.removesuffix(TARGET) for key in given if key.endswith(TARGET)]:
        node = OmegaConf.select(cfg, place, throw_on_resolution_failure=False)
        if not isinstance(node, DictConfig):
            continue
        try:
            parameters = accepted_parameters(locate(node.get("_target_")))[0]
        except ValueError:  # which `check` explains
            continue
        free = [str(name) for name in node if not any(f"{key}.".startswith(f"{place}.{name}.") for key in given)]
        with open_dict(cfg):
            for name in free:
                if name not in (*parameters, "_target_", "_partial_"):
                    del node[name]
        values = unresolved_container(node)
        for name in (name for name in free if name in parameters and is_literal(values[name])):
            value, default = values[name], parameters[name].default
            if default is not Parameter.empty and default != value:
                line = f"{place}.{name}={value} is that of the replaced class; the new one has {default} by itself"
                log.info("%s: %s.%s=... says which", line, place, name)


def is_literal(value: object) -> bool:
    """Returns whether a value of a configuration is a number, a text or null, and no interpolation."""
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and "${" not in value)
