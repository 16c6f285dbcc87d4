"""The classes of others that configurations from files may name: those that the user trusts, or has used before.

`trust=[mylab]` trusts modules for one command. Objects that the user has composed or trusted are recorded in the file
`known_classes` in the user's own configuration folder, so that `trust` is needed once. It has a line for each object, with a hash
of its class, the location of its package and its arguments. It holds no secrets, and only the hashes are read.
"""

import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alphabar.config.allowed_targets import find_package
from alphabar.files.paths import display_path

log = logging.getLogger(__name__)
FILE_NAME = "known_classes"
NOT_COMPARED = ("download", "cache_dir")  # arguments that a configuration from a file cannot set, see `stored_paths`
_trusted: tuple[str, ...] = ()


@contextmanager
def trusting(modules: Sequence[str]) -> Iterator[None]:
    """Allows, inside the context, configurations from files to name classes of these modules and their submodules."""
    global _trusted
    before = _trusted
    _trusted = tuple(modules)
    try:
        yield
    finally:
        _trusted = before


def is_trusted(target: str) -> bool:
    """Returns whether a class of this dotted name lies in a module that is trusted now."""
    return any(target.startswith(f"{module}.") for module in _trusted)


def config_home() -> Path:
    """Returns the user's own folder of configuration: $ALPHABAR_CONFIG_HOME, or alphabar/ in $XDG_CONFIG_HOME or ~/.config."""
    own, standard = os.environ.get("ALPHABAR_CONFIG_HOME"), os.environ.get("XDG_CONFIG_HOME")
    return Path(own) if own else Path(standard or os.path.expanduser("~/.config")) / "alphabar"


def node_hash(node: dict[str, Any]) -> str:
    """Returns the hash of an object of a resolved configuration: of its class, the location of its package and its arguments."""
    spec = find_package(node["_target_"])
    places = [] if spec is None else [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
    return _hash([*(os.path.realpath(str(place)) for place in places), _comparable(node)])


def words_hash(words: Sequence[str]) -> str:
    """Returns the hash of a command line, such as that of a sweep."""
    return _hash(list(words))


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            str(key): _comparable(item) for key, item in value.items() if key not in NOT_COMPARED or isinstance(item, dict | list)
        }
    return [_comparable(item) for item in value] if isinstance(value, list) else value


def is_known(found: str) -> bool:
    """Returns whether a hash is in the user's file, which is ignored if anybody else can write it."""
    return found in _known_hashes()


def _known_hashes() -> set[str]:
    path = config_home() / FILE_NAME
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid != os.getuid():
                log.warning("%s is not used: others can write it (chmod 600)", display_path(path))
                return set()
            return {line.partition(" ")[0] for line in file}
    except (OSError, UnicodeDecodeError):
        return set()


def remember(entries: Iterable[tuple[str, str]]) -> None:
    """Adds hashes that are new to the file, each with a comment; warns if the file cannot be written.

    Each line is appended by one call, so that lines of several processes do not mix.
    """
    known = _known_hashes()
    new = {found: word for found, word in entries if found not in known}
    if not new:
        return
    path = config_home() / FILE_NAME
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            for found, word in new.items():
                os.write(descriptor, f"{found} {word}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        log.warning("%s cannot be written (%s): trust=[...] will be needed each time", display_path(path), error.strerror)
