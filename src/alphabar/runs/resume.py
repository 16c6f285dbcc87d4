"""Resuming a run that stopped."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from alphabar.config.bounds import must_fit_in_memory
from alphabar.config.build import ConfigError, check, in_one_line
from alphabar.config.coercion import coerce
from alphabar.config.interpolation import Path as KeyPath
from alphabar.config.interpolation import resolved_container, unresolved_container, walk
from alphabar.config.roles import check_roles
from alphabar.config.stored import read_stored_yaml
from alphabar.config.stored_paths import confined
from alphabar.errors import UserError
from alphabar.files.paths import display_path
from alphabar.runs.checkpoints.checkpoint import LACKS, FrozenPartPaths, frozen_parts, must_be_at_hand, set_frozen_part_paths
from alphabar.runs.checkpoints.data_root import set_data_root
from alphabar.runs.checkpoints.kept_checkpoints import LastCheckpoint, newest_checkpoint
from alphabar.runs.folders.logger_folders import give_folders
from alphabar.runs.folders.run_dir import CONFIG, config_problem, has_checkpoint, lock, must_be_resumable, readable_config

log = logging.getLogger(__name__)
RUN_KEYS = (
    *("trainer", "speed", "callbacks", "logger", "profiler", "stall_seconds", "report", "name", "data.num_workers"),
    "data.download",
)
MAY_CHANGE = (*RUN_KEYS, *FrozenPartPaths._fields, "data_root", "trust")
DOWNLOAD = "download"  # the key by which the user allows downloads
# Keys that depend on the location of the run or on other keys, or that earlier versions did not store.
NOT_COMPARED = ("resume", "run_dir", "choices", "image_files", "class_names", "conditioner.names", "module.conditioner.names")


def resumed_config(cfg: DictConfig, overrides: Sequence[str]) -> tuple[DictConfig, LastCheckpoint]:
    """Returns the configuration of the run in `cfg.resume`, with this command's changes, and where the run stopped.

    Raises UserError if the folder holds no run or no checkpoint, or one of another version of alphabar, if another process is
    training it, for a change that would make it another run, or for the path of a frozen part that it does not have.
    """
    folder = Path(cfg.run_dir)
    must_be_resumable(folder, str(cfg.resume))
    lock(folder)
    saved = config_of_run(folder)
    for key in ("stall_seconds", "name", *FrozenPartPaths._fields):  # a run of an earlier version may not have them all
        saved.setdefault(key, None)
    saved.data_root = None  # where an earlier command found the data stands in them
    saved.setdefault("report", True)
    saved.setdefault("trust", [])
    former, saved.run_dir = str(saved.run_dir), str(folder)
    saved.resume = str(cfg.resume)
    tell_of_addresses(folder, overrides)
    before = resolved_container(saved)
    words = [word for word in overrides if word.lstrip("+").split("=")[0] != "resume"]
    if any(word.lstrip("+").split("=")[0] in ("speed", "speed.precision") for word in words):
        saved.trainer.precision = "${speed.precision}"  # which trainer.precision=... on the command line replaces
    for word in words:
        apply_override(saved, cfg, word)
    must_have_known_classes(saved, cfg, words, before)
    give_folders(saved, former)
    must_be_of_this_version(saved, words)
    set_given_paths(saved)
    must_be_at_hand(saved, words, f"resume={saved.resume}")
    must_fit_in_memory(resolved_container(saved), f"resume={saved.resume}: its {CONFIG}")
    return saved, newest_checkpoint_of_run(folder)


def tell_of_addresses(folder: Path, words: Sequence[str]) -> None:
    """Logs a line for each logger whose address in the config.yaml of a run is not used, unless the command line has its key.

    words: the overrides of the command line.
    """
    with suppress(UserError):  # of a file that is missing or damaged, of which another line tells
        stored = leaves(read_stored_yaml(folder / CONFIG, CONFIG).get("logger"), "logger")
        given = [word.lstrip("+~").split("=")[0] for word in words]
        for key in (key for key, value in stored if key.endswith(".tracking_uri") and value is not None):
            if not is_at_or_below(key, given):
                log.warning("%s: the address in %s is not used; to send figures there again, name it: %s=...", key, CONFIG, key)


def checkpoint_to_go_on_from(folder: Path) -> LastCheckpoint | None:
    """Returns the last checkpoint of the run in `folder`, which resume=auto goes on with; None if the run is to be started.

    Until all processes of a run have met, none writes a checkpoint, so that all find the same. Raises UserError if another process
    is training the run.
    """
    if not has_checkpoint(folder):
        return None
    must_be_resumable(folder, str(folder))
    lock(folder)
    return newest_checkpoint_of_run(folder)


def config_of_run(folder: Path) -> DictConfig:
    """Returns the configuration in the folder of a run or, if its config.yaml is missing or damaged, that in its newest checkpoint.

    A line says so. Raises UserError if it is refused, and as `newest_checkpoint` does.
    """
    config = readable_config(folder)
    if config is not None:
        return config
    newest = newest_checkpoint(folder)
    log.warning("%s; the configuration in %s is used", config_problem(folder), newest.path.name)
    return OmegaConf.create(newest.config)


def newest_checkpoint_of_run(folder: Path) -> LastCheckpoint:
    """Returns the newest checkpoint in the folder of a run. Raises UserError if there is none that is whole and of this run.

    It is of this run if its configuration agrees with the folder's in all that cannot change, wherever the files lie now.
    """
    newest = newest_checkpoint(folder)
    config = readable_config(folder)
    own, saved = (dict(leaves(each)) for each in (newest.config, {} if config is None else unresolved_container(config)))
    keys = [key for key in own if key in saved and not is_at_or_below(key, (*MAY_CHANGE, *NOT_COMPARED))]
    for key in sorted(keys, key=is_in_module):
        there, here = str(own[key]), str(saved[key])
        if there != here and "/" not in there + here:  # files may lie elsewhere now
            difference = f"which had {key}={there}; the one in this folder has {key}={here}"
            raise UserError(f"{display_path(newest.path)}: is of another run, {difference}")
    if "module" not in newest.config:
        raise UserError(f"{display_path(newest.path)}: its configuration does not say of which run it is")
    return newest


def must_have_known_classes(saved: DictConfig, cfg: DictConfig, words: Sequence[str], before: dict[str, Any]) -> None:
    """Raises UserError if the stored configuration of a run names a class that it may not, and that the command line does not name.

    saved: with the changes of the command line. before: without them.
    """
    approved: set[KeyPath] = set()
    for override in map(OverridesParser.create().parse_override, words):
        key = override.key_or_group
        path = tuple(key.removesuffix("._target_").split("."))
        chosen = unresolved_container(cfg[key]) if isinstance(cfg.get(key), DictConfig) else None
        value = chosen or ({} if override.is_delete() else override.value())
        approved |= {path} if key.endswith("._target_") else set()
        approved |= {(*path, *place) for place, node in walk(value, value) if isinstance(node, dict) and "_target_" in node}
    check_roles(resolved_container(saved), f"resume={saved.resume}: its {CONFIG}", approved, before)


def must_be_same_run(folder: Path, config: dict[str, Any], overrides: Sequence[str] = ()) -> None:
    """Raises UserError, which names a key, unless `config` describes the run in `folder` in all that may not change.

    overrides: those of the command line. A key that the user wrote is named rather than one that follows from it.
    """
    saved, given = (dict(leaves(content)) for content in (OmegaConf.to_container(config_of_run(folder)), confined(config)))
    keys = [key for key in dict.fromkeys([*given, *saved]) if not is_at_or_below(key, (*MAY_CHANGE, *NOT_COMPARED))]
    keys = [key for key in keys if not key.endswith(f".{DOWNLOAD}")]  # a stored one is false, and older runs have none
    changed = [key for key in keys if saved.get(key) != given.get(key)]
    if not changed:
        return
    given_keys = [word.lstrip("+~").split("=", 1)[0] for word in overrides]
    key = min(changed, key=lambda key: (not is_at_or_below(key, given_keys), is_in_module(key)))
    name = key.removesuffix("._target_")
    moved = f" data_root={given[key]}" if changed == ["data.root"] else ""
    raise UserError(
        f"{name}={given.get(key)}: the run in {folder} began with {name}={saved.get(key)}, and resume=auto repeats the command "
        f"that began it; to go on with the run as it is: resume={folder}{moved}"
    )


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted keys of a nested configuration with their values; a list is one value."""
    if not isinstance(value, dict) or not value:
        yield key, value
        return
    for name, item in value.items():
        yield from leaves(item, f"{key}.{name}" if key else str(name))


def is_in_module(key: str) -> bool:
    """Returns whether a dotted key lies in the module, which repeats the values of other keys."""
    return key.startswith("module.")


def is_at_or_below(key: str, parents: Sequence[str]) -> bool:
    """Returns whether a dotted key is one of `parents` or lies below one."""
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)


def is_about(line: str, key: str) -> bool:
    """Returns whether a line of `check` is about the value of a key, or about its object's having no such argument."""
    place = line.partition(":")[0]
    parent, _, last = key.rpartition(".")
    return is_at_or_below(place, [key]) or (place == parent and f"'{last}'" in line)


def apply_override(saved: DictConfig, cfg: DictConfig, word: str) -> None:
    """Applies one override of the command line to the configuration of the run.

    An override that chooses a group takes the group's content from `cfg`, this command's configuration. Raises UserError for a key
    that cannot change, or that the run does not have.
    """
    override = OverridesParser.create().parse_override(word)
    key = override.key_or_group
    if key == "data.root":
        raise UserError(f"{word}: a run that is resumed takes data_root=..., where its images lie now")
    if not is_at_or_below(key, MAY_CHANGE):
        raise UserError(f"{key}: cannot change when a run is resumed, it would be another run; what can: {', '.join(MAY_CHANGE)}")
    if key == "profiler":  # a group whose choices set an argument of the Trainer
        OmegaConf.update(saved, "trainer.profiler", cfg.trainer.get("profiler"), force_add=True)
        return
    parent, _, last = key.rpartition(".")
    if not parent and isinstance(cfg.get(key), DictConfig):
        OmegaConf.update(saved, key, cfg[key], merge=False, force_add=True)
        return
    node = OmegaConf.select(saved, parent) if parent else saved
    if not isinstance(node, DictConfig) or (last not in (*node, DOWNLOAD) and not (override.is_add() or override.is_force_add())):
        raise UserError(f"{word}: this run has no {key}")
    if override.is_delete():
        del node[last]
    else:
        OmegaConf.update(saved, key, override.value(), merge=True, force_add=True)


def refuse_moved_paths(cfg: DictConfig) -> None:
    """Raises UserError if a new run is given paths of moved data or parts, which only a resumed run can have."""
    for key, instead in (("codec_name", "codec.name"), ("clip_name", "clip"), ("data_root", "data.root")):
        if cfg[key] is not None:
            raise UserError(f"{key}={cfg[key]}: is for a run that is resumed; one that begins takes {instead}=...")


def set_given_paths(saved: DictConfig) -> None:
    """Sets the paths of frozen parts and data that the command line gives; when they are loaded, they are compared.

    Raises UserError for a part that the model does not have, and for data without a root.
    """
    paths = FrozenPartPaths(*(saved.get(key) for key in FrozenPartPaths._fields))
    for key, name in paths._asdict().items():
        if name is not None and not frozen_parts(saved)[key]:
            raise UserError(f"{key}={name}: this model is {LACKS[key]}")
    set_frozen_part_paths(saved, paths)
    if saved.get("data_root") is not None:
        set_data_root(saved, str(saved.data_root), "this run")


def must_be_of_this_version(saved: DictConfig, words: Sequence[str]) -> None:
    """Converts values of the command line, as `coerce` does, and checks the configuration of a run that is resumed.

    Raises ConfigError for what the command line changes, and UserError, with one line, for what is not valid in this version.
    """
    values = {word.lstrip("+").split("=", 1)[0]: word.split("=", 1)[1] for word in words if "=" in word}
    coerce(saved, values)
    try:
        check(saved)
    except ConfigError as error:
        lines = str(error).splitlines()
        of_file = [line for line in lines if not any(is_about(line, key) for key in values)]
        if not of_file:
            raise
        raise UserError(
            f"resume={saved.resume}: its config.yaml does not fit this version of alphabar: {in_one_line(of_file)}; "
            "go on with the version that wrote it, or start a new run"
        ) from error
