"""docs/from_noise_to_digits.ipynb: its cells run one after the other, and what it shows is in it."""

import ast
import base64
import io
import json

import pytest
from PIL import Image

import runs

NOTEBOOK = runs.ROOT / "docs" / "from_noise_to_digits.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
STEPS = '"trainer.max_steps=200"'  # what a smoke size replaces


def value_of(source, names):
    """Runs a cell and returns the value of its last line, if that is an expression."""
    *first, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        first, last = [*first, last], None
    exec(compile(ast.Module(first, []), NOTEBOOK.name, "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """The names and the values of all cells, run in one process, and the figures that they have shown."""
    import matplotlib.pyplot as plt

    names, values, figures = {}, [], []
    smoke = ", ".join(map(repr, [*runs.words(*runs.BRIEF[1:]), "trainer.max_steps=2"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        patch.setattr(plt, "show", lambda: figures.append(plt.gcf()) or plt.close())
        for cell in CODE:
            values.append(value_of("".join(cell["source"]).replace(STEPS, smoke), names))
    return names, values, figures


def test_the_cells_run_and_return_what_they_show(notebook):
    _, values, figures = notebook
    assert any(STEPS in "".join(cell["source"]) for cell in CODE)
    assert len(figures) == 2
    for cell, value in zip(CODE, values, strict=True):
        shown = [output["data"] for output in cell["outputs"] if output["output_type"] == "execute_result"]
        assert bool(shown) == (value is not None)
        if isinstance(value, Image.Image):
            with Image.open(io.BytesIO(base64.b64decode(shown[0]["image/png"]))) as picture:
                assert picture.size == value.size


def test_what_it_teaches_is_so(notebook):
    names, *_ = notebook
    loss = sum(names["losses"][-100:]) / 100
    assert loss < 0.15
    # As many samples are of the class that was asked for as the eye sees: the nearest real digit is one of it.
    data, samples = names["x"].flatten(1), names["samples"].flatten(1)
    nearest = names["labels"][(samples[:, None] - data).square().sum(-1).argmin(1)]
    assert (nearest == names["every"]["digit"]).float().mean() > 0.7
    right = [(names["labels"][(row.flatten(1)[:, None] - data).square().sum(-1).argmin(1)] == 5).sum() for row in names["rows"]]
    assert right[0] < right[2]
    assert names["images"].shape == (40, 1, 8, 8)


def test_it_is_small_and_names_no_place_of_a_machine():
    text = NOTEBOOK.read_text()
    assert len(text) < 500_000
    assert not [name for name in ("/home", "/tmp", "/root", "/work", "C:\\\\") if name in text]
    assert all(cell["outputs"] for cell in CODE if "show" in "".join(cell["source"]))
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
