"""Tells the folder of a `DiskCache` from others, without torch."""

import os
import re
from pathlib import Path

# Entries, their notes, locks and unfinished files; and latents of earlier versions.
CACHE_FILE = re.compile(r"\.?\w+-[0-9a-f]{24}\..+|.+\.lock|.+\.safetensors")


def is_cache(folder: Path) -> bool:
    """Returns whether a folder has files, and none but those of a cache; there may be folders beside them."""
    try:
        with os.scandir(folder) as entries:
            files = [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]
    except OSError:
        return False
    return bool(files) and all(map(CACHE_FILE.fullmatch, files))
