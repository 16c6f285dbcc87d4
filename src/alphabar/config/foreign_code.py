"""Errors that classes of somebody else raise: where they were raised, in one line."""

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from alphabar.config.allowed_targets import is_foreign
from alphabar.errors import UserError
from alphabar.files.paths import display_path


def foreign_error(error: Exception) -> str | None:
    """Returns one line on an error that somebody else's class raised: "Net.forward: KeyError: 'x' (mylab/nets.py, line 12)".

    None if no frame of the traceback is of such a class, and for a ValueError of ours, which says itself what to change.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in frames]
    if isinstance(error, UserError) or (isinstance(error, ValueError) and modules and modules[-1].startswith("alphabar.")):
        return None
    found = [each for each, module in zip(frames, modules, strict=True) if is_foreign(module)]
    if not found:
        return None
    frame, line = found[-1]
    code = frame.f_code
    text = " ".join(str(error).split())[:300]
    return f"{code.co_qualname}: {type(error).__name__}: {text} ({display_path(code.co_filename)}, line {line})"


def failing_part(error: Exception, parts: Mapping[str, object]) -> str | None:
    """Returns the name of the part in whose method the error was raised, the innermost of them; None if it was raised elsewhere."""
    owners = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((name for owner in reversed(owners) for name, part in parts.items() if part is owner and part is not None), None)


@contextmanager
def explaining_foreign_errors(parts: Mapping[str, object], given: Mapping[str, str]) -> Iterator[None]:
    """Makes UserError of an error that somebody else's part raises: one line with its key, the place and what it was given.

    parts: by their keys. given: what each is called with, as far as it is known, by the same keys; it may be filled meanwhile.
    """
    try:
        yield
    except Exception as error:
        if (line := foreign_error(error)) is None:
            raise
        part = failing_part(error, parts)
        if part is None:
            raise UserError(line) from error
        raise UserError(f"{part}: {line}" + (f"; it was given {given[part]}" if part in given else "")) from error
