"""Where a configuration out of a file may write and what it may fetch: nowhere but in caches, and nothing."""

from typing import Any

from alphabar.files.cache import holds_other_files
from alphabar.files.paths import user_path

CACHE = "outputs/cache"


def confined(config: Any) -> Any:
    """Returns a copy of the plain content of a stored configuration that neither downloads data nor writes among other files.

    `download` is false: whoever made the file does not decide what is fetched here. A `cache_dir` that holds, or is, anything but a
    cache becomes `outputs/cache`.
    """
    if isinstance(config, list):
        return [confined(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {key: _confined_value(key, value) for key, value in config.items()}


def _confined_value(key: str | int, value: Any) -> Any:
    if key == "download" and isinstance(value, bool):
        return False
    if key == "cache_dir" and isinstance(value, str):
        return CACHE if holds_other_files(user_path(value)) else value
    return confined(value)
