"""Classes of which no object can be made as they are written: what they lack, in one line."""

import inspect
from dataclasses import fields, is_dataclass

from alphabar.config.allowed_targets import is_own


def reason_incomplete(cls: type) -> str | None:
    """Returns what a class lacks, methods that it has to have or the decorator of a dataclass; None if it is complete."""
    return _lacking_methods(cls) if inspect.isabstract(cls) else _lacking_decorator(cls)


def dotted_name(cls: type) -> str:
    """Returns the name by which a class can be imported."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _lacking_methods(cls: type) -> str:
    missing = sorted(cls.__abstractmethods__)  # type: ignore[attr-defined]
    asking = [base for base in cls.__mro__ if any(getattr(vars(base).get(name), "__isabstractmethod__", False) for name in missing)]
    if is_own(dotted_name(cls)) or cls in asking:
        return f"{cls.__name__} is an interface without {', '.join(missing)}: name one of its implementations"
    kinds: dict[str, list[str]] = {}
    for name in missing:
        kinds.setdefault("property" if isinstance(inspect.getattr_static(cls, name), property) else "method", []).append(name)
    lacking = " and ".join(f"no {kind} {', '.join(names)}" for kind, names in kinds.items())
    return f"{dotted_name(cls)} has {lacking}, which {asking[0].__name__} asks for"


def _lacking_decorator(cls: type) -> str | None:
    """Returns why the arguments of a class are not those that its body states; None if they are, or it has an __init__ of its own.

    A class that derives from a dataclass has the arguments and the default values of that, until it is decorated itself.
    """
    for each in cls.__mro__:
        if "__init__" in vars(each) and "__dataclass_fields__" not in vars(each):
            return None
        inherited = {item.name for base in each.__bases__ if is_dataclass(base) for item in fields(base)}
        annotations = {name: str(hint) for name, hint in inspect.get_annotations(each).items()}
        if not inherited:
            continue
        if bare := [name for name in vars(each) if name in inherited and name not in annotations]:
            return (
                f"{dotted_name(each)} sets {', '.join(bare)} without a type, which changes nothing: write {bare[0]}: TYPE = VALUE"
            )
        stated = [name for name, hint in annotations.items() if name in vars(each) and "ClassVar" not in hint]
        if stated and "__dataclass_fields__" not in vars(each):
            return (
                f"{dotted_name(each)} has fields ({', '.join(stated)}) and is no dataclass: "
                "put @dataclass(frozen=True, kw_only=True) above the class"
            )
    return None
