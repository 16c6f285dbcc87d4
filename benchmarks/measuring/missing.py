"""Tools that are not installed: each is a line of the table."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import TypeVar

from measuring.timing import GlobalSettings

T = TypeVar("T")


class Missing(Exception):
    """A tool that is not installed; the text says how to install it."""


def needed(packages: str, *modules: str) -> None:
    """Raises Missing unless the modules are there, which `pip install PACKAGES` installs."""
    if any(find_spec(module) is None for module in modules):
        raise Missing(f"{modules[0]} is not installed: pip install {packages}")


def installed(makers: Iterable[Callable[[], T]]) -> tuple[list[T], list[str]]:
    """Returns what can be made, and a line for each tool that is not installed; settings of the process stay as they were."""
    made: list[T] = []
    settings = GlobalSettings()
    lines: dict[str, None] = {}
    for make in makers:
        try:
            made.append(make())
        except Missing as error:
            lines[str(error)] = None
        finally:
            settings.restore()
    return made, list(lines)
