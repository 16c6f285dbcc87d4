"""Puts the scripts and conf/ into the package of a wheel; an editable install uses those of the checkout. See pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithScripts(build_py):
    """The build of the package, with alphabar/scripts/: train.py and the other scripts, and conf/ beside them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, "alphabar", "scripts")
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier build
        shutil.copytree("conf", folder / "conf")
        for name in ("train.py", "sample.py", "evaluate.py", "prepare.py"):
            shutil.copy(name, folder)


setup(cmdclass={"build_py": BuildWithScripts})
