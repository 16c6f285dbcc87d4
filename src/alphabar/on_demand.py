"""Lazy import of torchmetrics.

Lightning imports torchmetrics for two of its classes, and torchmetrics imports transformers, torchvision and scipy.signal with all
of its metrics. Most commands use none of them, and the import takes a third of the time until a run's first step.
"""

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec, spec_from_loader
from threading import RLock
from types import ModuleType

PACKAGE = "torchmetrics"
FIRST = f"{PACKAGE}.utilities"  # it imports the modules of the two classes in the order that their circle needs
HOMES = {"Metric": f"{PACKAGE}.metric", "MetricCollection": f"{PACKAGE}.collections"}
PARTS = (FIRST, *HOMES.values(), f"{PACKAGE}.__about__")  # what may be imported while the rest of the package is not


def load_torchmetrics_on_demand() -> None:
    """Replaces torchmetrics by a package that loads the whole of it at the first use, unless it is loaded already."""
    spec = None if PACKAGE in sys.modules else find_spec(PACKAGE)
    if spec is not None:
        package = _PackageOnDemand(spec)
        sys.modules[PACKAGE] = package
        sys.meta_path.insert(0, package.finder)


class _PackageOnDemand(ModuleType):
    """The package torchmetrics; it becomes an ordinary module, with all of it, at the first use of what is not in `HOMES`."""

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(spec.name)
        self.__spec__, self.__loader__, self.__package__ = spec, spec.loader, spec.name
        self.__file__, self.__path__ = spec.origin, list(spec.submodule_search_locations or ())
        self.__version__ = version(spec.name)
        self._logger = logging.getLogger(spec.name)
        self.finder = _WholeFirst(self)
        self.lock = RLock()

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") and name != "__all__":  # what Python itself looks for in modules
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if name in HOMES:
            try:
                import_module(FIRST)
                return getattr(import_module(HOMES[name]), name)
            except ImportError:  # of a version with other modules
                pass
        with self.lock:  # another thread waits until all is there
            if not isinstance(self, _PackageOnDemand) or self.finder not in sys.meta_path:  # loaded, or in the midst of it
                return ModuleType.__getattribute__(self, name)
            self.load()
        return getattr(self, name)

    def load(self) -> None:
        """Executes the package as an import of it would have done. After an error the next use tries again."""
        assert isinstance(self.__loader__, Loader)
        sys.meta_path.remove(self.finder)
        try:
            self.__loader__.exec_module(self)
        except BaseException:
            sys.meta_path.insert(0, self.finder)
            raise
        self.__class__ = ModuleType  # type: ignore[assignment]


class _WholeFirst(MetaPathFinder):
    """Loads the whole package before a module of it is imported that is not in `PARTS`, in the order that its imports expect."""

    def __init__(self, package: _PackageOnDemand) -> None:
        self.package = package

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not fullname.startswith(f"{PACKAGE}.") or fullname.startswith(PARTS):
            return None
        lock = self.package.lock
        if not lock.acquire(blocking=False):  # another thread loads it, which may wait for this module
            return None
        try:
            if self in sys.meta_path:
                self.package.load()
        finally:
            lock.release()
        return spec_from_loader(fullname, _LoadedModule()) if fullname in sys.modules else None


class _LoadedModule(Loader):
    """Gives Python the module that has been loaded while it was searched for."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.module = sys.modules[spec.name]
        self.spec = self.module.__spec__
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec
