"""Links in the folder of a run, through which it would write elsewhere."""

import os
import stat
from pathlib import Path

from alphabar.errors import UserError
from alphabar.files.paths import display_path


def refuse_links(folder: Path) -> None:
    """Raises UserError if there is a link in a folder that leads out of it, or anything but files, folders and links.

    Who can write into the folder, or has packed it, could otherwise choose which files of ours a run replaces. The folder itself
    may be a link. Links inside, such as wandb's to its latest run, do no harm, nor does what earlier starts of wandb have left in
    folders of their own, into which later ones do not write.
    """
    root = os.path.realpath(folder)
    for place, folders, files in os.walk(root, onerror=_raise):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            mode, target = os.lstat(path).st_mode, os.path.realpath(path)
            if stat.S_ISLNK(mode) and target != root and not target.startswith(root + os.sep):
                raise _link_error(folder, os.path.relpath(path, root), f"is a link to {target}, out of the folder")
            if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise _link_error(folder, os.path.relpath(path, root), "is neither a file nor a folder")
        if os.path.basename(place) == "wandb" and place != root:
            folders.clear()


def refuse_links_to(folder: Path, name: Path) -> None:
    """Raises UserError if `name`, which is relative to the folder, or a folder on the way to it is a link.

    For what is deleted with all its content, for which a link inside the folder does harm, too.
    """
    for path in (name, *name.parents[:-1]):
        if (folder / path).is_symlink():
            raise _link_error(folder, str(path), "is a link")


def _raise(error: OSError) -> None:
    raise UserError(f"cannot read {error.filename}: {error.strerror}") from error


def _link_error(folder: Path, name: str, problem: str) -> UserError:
    return UserError(f"{display_path(folder)}: {name} {problem}; nothing is written here before it is removed")
