import ast
import importlib
import subprocess
import sys

import pytest

import runs
from alphabar.models.codecs import Codec
from alphabar.models.conditioners import Conditioner

ABOVE = ("lightning", "hydra", "omegaconf", "torchmetrics", "torchvision", "wandb", "sklearn", "matplotlib", "diffusers")


def loaded_by(statement):
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=runs.ROOT)
    return set(done.stdout.split())


def test_the_maths_needs_torch_alone():
    modules = [
        ".".join(path.relative_to(runs.ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in (runs.ROOT / "src" / "alphabar" / "diffusion").rglob("*.py")
    ]
    assert len(modules) > 10
    assert loaded_by(f"import {', '.join(modules)}").isdisjoint(ABOVE)


def test_models_import_their_heavy_libraries_only_when_needed():
    modules = [
        ".".join(path.relative_to(runs.ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in (runs.ROOT / "src" / "alphabar" / "models").rglob("*.py")
    ]
    assert len(modules) > 20
    assert loaded_by(f"import {', '.join(modules)}").isdisjoint((*ABOVE, "transformers", "tokenizers", "huggingface_hub"))


# First words of docstrings that are no sentence: "Of the weights.", "Those that are kept.", "As published.", "Half the resolution."
REFUSED = {
    "Of",
    "That",
    "Those",
    "What",
    "Whose",
    "Which",
    "Who",
    "As",
    "How",
    "Where",
    "When",
    "Half",
    "Double",
    "And",
    "Also",
    "None",
}


def is_fragment(docstring: str, is_function: bool) -> bool:
    """Whether a docstring begins with no subject or verb; that of a function begins with a verb ("Returns", "Raises")."""
    first = docstring.split()[0].rstrip(",.:;")
    if first in REFUSED or docstring.startswith("The same") or not first[0].isupper() or (len(first) == 1 and first != "A"):
        return True
    return is_function and not first.endswith("s")


def test_docstrings_begin_as_sentences():
    fragments = []
    for path in sorted((runs.ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (docstring := ast.get_docstring(node)):
                is_property = any("property" in ast.unparse(each) for each in node.decorator_list)
                if is_fragment(docstring, not isinstance(node, ast.ClassDef) and not is_property):
                    fragments.append(f"{path.relative_to(runs.ROOT)}:{node.lineno} {node.name}: {docstring.splitlines()[0]}")
    assert not fragments, "\n".join(fragments)


@pytest.mark.parametrize(
    ("docstring", "is_function", "expected"),
    [
        ("Those that the run keeps, if it does.", False, True),
        ("The same for grey images.", False, True),
        ("x + attention of all pixels.", False, True),
        ("The weights of the network.", True, True),
        ("The weights of the network.", False, False),
        ("Returns the weights of the network.", True, False),
    ],
)
def test_fragments_are_found(docstring, is_function, expected):
    assert is_fragment(docstring, is_function) == expected


def parts_of_models() -> set[str]:
    """The names of all conditioners and codecs, and of what they are made of."""
    folder = runs.ROOT / "src" / "alphabar" / "models"
    for path in sorted([*(folder / "conditioners").glob("*.py"), *(folder / "codecs").glob("*.py")]):
        importlib.import_module(".".join(path.relative_to(runs.ROOT / "src").with_suffix("").parts).removesuffix(".__init__"))
    found, queue = set(), [Conditioner, Codec]
    while queue:
        part = queue.pop()
        found.add(part.__name__)
        queue += [each for each in part.__subclasses__() if each.__module__.startswith("alphabar.")]
    return found


def test_no_layer_asks_which_conditioner_or_codec_it_has():
    """A new one is one file: what others need to know of it, they ask it."""
    names = parts_of_models()
    assert {"Text", "LowResolution", "Pixels", "Autoencoder"} <= names
    questions = []
    for path in sorted((runs.ROOT / "src").rglob("*.py")):
        if "models" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass"):
                asked = {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)}
                questions += [f"{path.name}:{node.lineno} {name}" for name in asked & names]
    assert questions == []


def test_files_and_functions_are_short():
    files = {path: path.read_text() for path in (runs.ROOT / "src").rglob("*.py")}
    sizes = sorted(len(text.splitlines()) for text in files.values())
    assert sizes[len(sizes) // 2] <= 120
    assert sizes[-1] <= 300
    nodes = [node for text in files.values() for node in ast.walk(ast.parse(text))]
    lengths = sorted(node.end_lineno - node.lineno + 1 for node in nodes if isinstance(node, ast.FunctionDef))
    assert lengths[9 * len(lengths) // 10] <= 25
    assert lengths[-1] <= 60
    assert all(
        len((runs.ROOT / f"{name}.py").read_text().splitlines()) <= 60 for name in ("train", "sample", "evaluate", "prepare")
    )
