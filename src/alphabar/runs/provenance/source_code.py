"""The version of this package's own code: its commit and the changes since, if it lies in a checkout of this project."""

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import alphabar
from alphabar.files.atomic import write_text
from alphabar.files.paths import unused_path
from alphabar.runs.provenance.masking import masked_code

PROJECT = 'name = "alphabar"'  # the line of pyproject.toml by which a checkout of this project is known
CODE = ("src", "conf", ":(glob)*.py", "pyproject.toml")  # what a run depends on, at the top of the checkout
MAX_DIFF = 1_000_000  # characters
MAX_NEW_FILES = 100
DIFF = "code.diff"
PLAIN = ("--no-ext-diff", "--no-textconv", "--no-color")  # programs that the user's settings name are not started


class SourceCode(NamedTuple):
    """The commit of a checkout, and the changes since as `git apply` takes them, new files among them; "" for none."""

    commit: str
    changes: str

    @property
    def revision(self) -> str:
        """The commit, with "+changes" if the code is not what it was there."""
        return self.commit + ("+changes" if self.changes else "")


@cache
def source_code() -> SourceCode | None:
    """Returns the version of the code; None where it lies in no checkout of this project, or there is no git.

    A package that is installed inside a checkout of something else is not mistaken for a part of that.
    """
    top = checkout(Path(alphabar.__file__).resolve().parent)
    if top is None:
        return None
    try:
        commit = _git(top, "rev-parse", "HEAD").strip()
        changes = _git(top, "diff", "HEAD", *PLAIN, "--", *CODE)
        new = _git(top, "ls-files", "--others", "--exclude-standard", "-z", "--", *CODE).split("\0")
        changes += "".join(_new_file(top, name) for name in sorted(filter(None, new))[:MAX_NEW_FILES])
    except (OSError, subprocess.SubprocessError):
        return None
    cut = f"\n[cut: the whole has {len(changes):,} characters]\n" if len(changes) > MAX_DIFF else ""
    return SourceCode(commit, masked_code(changes[:MAX_DIFF]) + cut)


def checkout(package: Path) -> Path | None:
    """Returns the top folder of the checkout of this project in which a package lies as src/alphabar; None if it lies elsewhere."""
    top = package.parent.parent
    try:
        is_ours = PROJECT in (top / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return top if is_ours and package.parent.name == "src" and (top / ".git").exists() else None


def code_revision() -> str | None:
    """Returns the commit of the code, with "+changes" if files differ; None where it is not known."""
    code = source_code()
    return None if code is None else code.revision


def write_changes(folder: Path) -> str | None:
    """Writes the changes of the code since its commit into a folder and returns the name of the file; None if there are none.

    A file with the same changes is used again, so that a run that is resumed has one for each version of its code.
    """
    code = source_code()
    if code is None or not code.changes:
        return None
    content = code.changes.encode()
    for path in sorted(folder.glob(f"{Path(DIFF).stem}*{Path(DIFF).suffix}")):
        if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
            return path.name
    path = unused_path(folder / DIFF)
    write_text(path, code.changes)
    return path.name


def _new_file(top: Path, name: str) -> str:
    """Returns a file that git does not track yet as a change; nothing for one that is too large to be code."""
    if (top / name).stat().st_size > MAX_DIFF:
        return f"[left out: {name} has more than {MAX_DIFF:,} bytes]\n"
    return _git(top, "diff", *PLAIN, "--no-index", "--", "/dev/null", name, good=(0, 1))


def _git(top: Path, *arguments: str, good: tuple[int, ...] = (0,)) -> str:
    """Returns what git prints, asked about the folder alone: neither hooks nor variables of the caller lead it elsewhere.

    Nothing is written, not even the index is refreshed. Raises OSError or SubprocessError if it fails.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {"GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(top), "-c", "core.fsmonitor=false", "-c", "core.quotePath=true", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=10, env=environment, stdin=subprocess.DEVNULL)
    if done.returncode not in good:
        raise subprocess.CalledProcessError(done.returncode, command)
    return done.stdout.decode(errors="replace")
