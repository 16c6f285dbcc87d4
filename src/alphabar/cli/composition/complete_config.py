"""Completes and checks a composed configuration before it is passed to a command's `main`."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from alphabar.cli.composition.hydra_app import App
from alphabar.cli.composition.overrides import override_texts
from alphabar.cli.composition.user_classes import leave_out_former_arguments, user_classes
from alphabar.config.build import ConfigError, check
from alphabar.config.coercion import coerce
from alphabar.config.interpolation import MissingValue, Unresolvable, resolved_container, unresolved_container, value_at
from alphabar.config.missing import missing_values
from alphabar.errors import UserError
from alphabar.files.paths import user_path
from alphabar.runs.folders.logger_folders import give_folders

# Groups that a command can do without: each holds a mapping of objects, which may be empty.
MAPPINGS = ("callbacks", "logger")
# Keys that name one checkpoint, or several.
CHECKPOINT_KEYS = ("checkpoint", "stages", "inference.checkpoint", "inference.stages", "guidance.checkpoint")


def complete_config(cfg: DictConfig, app: App, words: Sequence[str], folder: Path) -> None:
    """Fills in what the command line leaves open, and checks the configuration. Raises ConfigError or UserError if it is invalid.

    Missing values are reported before any class is imported, but for one that the command line names, and so before torch is.
    words: the overrides of the command line. folder: the folder of this run.
    """
    if "run_dir" in cfg:
        cfg.run_dir = str(folder)
    empty_dropped_groups(cfg, app, HydraConfig.get().runtime.choices)
    leave_out_former_arguments(cfg, words)
    if lines := missing_values(cfg):
        raise ConfigError("\n".join(lines))
    replace_run_folders(cfg)
    app.check(cfg)
    if "logger" in cfg:
        with open_dict(cfg):
            give_folders(cfg)
    coerce(cfg, override_texts(words))
    check(cfg, app.groups)


def config_as_yaml(app: App, args: Namespace) -> str:
    """Returns what `--cfg`, `--package` and `--resolve` ask for: the configuration that would run, as YAML.

    Values that the command line gives have the types of their arguments. With `--resolve`, ??? stands where a value is filled in
    later. Raises UserError for a package that does not exist.
    """
    cfg = app.compose(args.overrides)
    HydraConfig.instance().set_config(cfg)
    empty_dropped_groups(cfg, app, cfg.hydra.runtime.choices)
    values = override_texts(args.overrides)
    with user_classes(cfg):
        leave_out_former_arguments(cfg, args.overrides)
        coerce(cfg, values, only=values.keys())
    parts = {"job": cfg.keys() - {"hydra"}, "hydra": {"hydra"}, "all": cfg.keys()}[args.cfg]
    content = with_missing_marks(resolved_container(cfg)) if args.resolve else unresolved_container(cfg)
    content = {key: value for key, value in content.items() if key in parts}
    if args.package in (None, "_global_"):
        return OmegaConf.to_yaml(OmegaConf.create(content))
    try:
        node = value_at(content, tuple(args.package.split(".")))
    except (LookupError, ValueError):
        raise UserError(f"--package={args.package}: there is no such key in the configuration") from None
    return f"# @package {args.package}\n{OmegaConf.to_yaml(node)}" if isinstance(node, dict | list) else f"{node}\n"


def with_missing_marks(value: Any) -> Any:
    """Returns `resolved_container` content with ??? in the place of values that are not known."""
    if isinstance(value, dict):
        return {key: with_missing_marks(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_missing_marks(item) for item in value]
    return "???" if isinstance(value, MissingValue | Unresolvable) else value


def empty_dropped_groups(cfg: DictConfig, app: App, choices: Mapping[str, str]) -> None:
    """Removes, from the mappings whose groups were dropped as in `callbacks=null`, the values that other files give to members."""
    with open_dict(cfg):
        for group in MAPPINGS:
            if group in app.main_groups() and choices.get(group) is None:
                members = unresolved_container(cfg).get(group) or {}
                cfg[group] = {name: member for name, member in members.items() if "_target_" in (member or {})}


def replace_run_folders(cfg: DictConfig) -> None:
    """Replaces every run folder that is given in place of a checkpoint by the last checkpoint in it.

    Raises UserError if the folder has none.
    """
    for key in CHECKPOINT_KEYS:
        try:
            value = OmegaConf.select(cfg, key)
        except OmegaConfBaseException:  # an interpolation that leads nowhere, which is explained later
            continue
        if value is not None:
            single = not isinstance(value, ListConfig)
            paths = [str(each) for each in ([value] if single else value)]
            checkpoints = [last_checkpoint(key, path) for path in paths]
            if checkpoints != paths:
                OmegaConf.update(cfg, key, checkpoints[0] if single else checkpoints)


def last_checkpoint(key: str, path: str) -> str:
    """Returns the last checkpoint of a run's folder, and the path of a file unchanged.

    Raises UserError if the folder has none, or if there is nothing at the path.
    """
    if not user_path(path).exists():
        raise UserError(f"{key}={path}: no such file; a run keeps its own in checkpoints/last.ckpt and best.ckpt")
    if not user_path(path).is_dir():
        return path
    last = Path(path) / "checkpoints" / "last.ckpt"
    if not user_path(last).is_file():
        raise UserError(f"{key}={path}: a folder without checkpoints/last.ckpt; give the folder of a run, or a checkpoint")
    return str(last)
