"""Confines a configuration from a file: it writes only into caches, and downloads nothing."""

from typing import Any

from alphabar.files.cache_folder import is_cache
from alphabar.files.paths import cache_folder, user_path

KINDS = ("features", "latents", "text")  # the folders of a command's caches


def confined(config: Any) -> Any:
    """Returns a copy of the plain content of a stored configuration that downloads nothing and writes only into caches.

    `download` becomes false. A `cache_dir` that is neither in this command's `paths.cache` nor a cache already becomes the folder
    of its kind in `paths.cache`. A `tracking_uri`, the address that figures are sent to, becomes null.
    """
    if isinstance(config, list):
        return [confined(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {key: _confined_value(key, value) for key, value in config.items()}


def _confined_value(key: str | int, value: Any) -> Any:
    if key == "download":
        return False if value is not None else None
    if key == "tracking_uri":
        return None
    if key == "cache_dir" and isinstance(value, str):
        return _confined_cache(value)
    return confined(value)


def _confined_cache(value: str) -> str:
    here = cache_folder()
    try:
        there = user_path(value)
        if there.resolve().is_relative_to(user_path(here).resolve()) or is_cache(there):
            return value
    except (ValueError, RuntimeError, OSError):  # no path: with a null character, or of a user who is not known
        return str(here)
    return str(here / there.name if there.name in KINDS else here)
