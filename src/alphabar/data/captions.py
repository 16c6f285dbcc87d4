"""Captions of the images in a folder: `metadata.jsonl`, as Hugging Face's imagefolder reads it."""

import json
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from alphabar.errors import UserError
from alphabar.files.reading import read_bytes

METADATA = "metadata.jsonl"
FILE_NAME = "file_name"


def read_captions(root: Path, names: Sequence[str], key: str) -> list[str] | None:
    """Returns the caption of each image of `names`, relative to `root`; None if the folder has no metadata.jsonl.

    Each of its lines is a JSON object with "file_name", relative to root, and a caption under `key`. Lines for other files do not
    count. Raises UserError for a line that is no such object, for two lines about one image, and for images without a caption.
    """
    path = root / METADATA
    if not os.path.lexists(path):
        return None
    lines = _read_lines(path)
    numbers = {name: number for number, (name, _) in enumerate(lines, start=1) if name is not None}
    found = [numbers.get(_normalized(name)) for name in names]
    captions = [None if number is None else _caption(path, number, lines[number - 1][1], key) for number in found]
    lacking = [name for name, caption in zip(names, captions, strict=True) if caption is None]
    if lacking:
        keys = sorted({each for _, content in lines for each in content} - {FILE_NAME})
        hint = f"its lines have {', '.join(map(repr, keys[:8]))}: set data.caption_key to one of them; "
        raise UserError(
            f"{path} gives no caption {key!r} for {len(lacking)} of {len(names)} images, the first of them is {lacking[0]}; "
            f"{hint if keys and key not in keys else ''}data.caption_key=null does without captions"
        )
    return [caption for caption in captions if caption is not None]


def _read_lines(path: Path) -> list[tuple[str | None, dict[str, Any]]]:
    """Returns (file name, content) of each line; (None, {}) for empty ones."""
    try:
        raw = read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    lines: list[tuple[str | None, dict[str, Any]]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(raw, start=1):
        if not line.strip():
            lines.append((None, {}))
            continue
        content = _parse_line(path, number, line)
        name = _normalized(content[FILE_NAME])
        if name in seen:
            raise UserError(f"{path}, line {number}: {name} has a line already, line {seen[name]}; need one for each image")
        seen[name] = number
        lines.append((name, content))
    return lines


def _parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number}: not JSON ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not isinstance(content.get(FILE_NAME), str):
        raise UserError(f'{path}, line {number}: need {{"{FILE_NAME}": "...", ...}}, got {line.decode().strip()[:60]}')
    return content


def _caption(path: Path, number: int, content: dict[str, Any], key: str) -> str | None:
    """Returns the caption without spaces around it; None if there is none, or nothing but spaces."""
    caption = content.get(key)
    if caption is not None and not isinstance(caption, str):
        raise UserError(f"{path}, line {number}: need a text under {key!r}, got {json.dumps(caption)[:60]}")
    return (caption or "").strip() or None


def _normalized(name: str) -> str:
    """Returns one spelling of a file name, of the two that accents have, and without a leading "./"."""
    return unicodedata.normalize("NFC", PurePosixPath(name).as_posix())
