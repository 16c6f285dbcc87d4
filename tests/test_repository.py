"""Files of the repository that only other programs read: hooks, the workflow, links between documents."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from PIL import Image

import documents
import runs

PROJECT = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())


def test_hooks_call_tools_of_the_environment():
    config = yaml.safe_load((runs.ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "pyright"}
    for hook in hooks:
        tool = hook["entry"].split()[0]
        assert hook["language"] == "system"
        assert tool.startswith(".venv/bin/")
        assert Path(sys.executable).with_name(Path(tool).name).exists()


def test_the_workflow_runs_targets_of_make_on_python_that_is_supported():
    workflow = yaml.safe_load((runs.ROOT / ".github" / "workflows" / "check.yml").read_text())
    job = workflow["jobs"]["check"]
    rows = job["strategy"]["matrix"]["include"]
    targets = re.findall(r"^(\w+):", (runs.ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {row["target"] for row in rows} == {"check", "test"} <= set(targets)
    least = tuple(map(int, re.findall(r"\d+", PROJECT["project"]["requires-python"])))
    assert min(tuple(map(int, row["python"].split("."))) for row in rows) == least
    for step in job["steps"]:
        assert re.fullmatch(r"make \S.*", step.get("run", "make x"))
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", "a/b@" + 40 * "0"))


def anchors(document):
    """Returns the anchors of the headings of a document, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("document", documents.FILES, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", document.read_text()):
        target, _, anchor = "".join(link).partition("#")
        path = document.parent / target if target else document
        assert target.startswith("https://") or path.exists(), link
        assert not anchor or target.startswith("https://") or anchor in anchors(path), link


def test_pictures_of_the_documents_name_no_place_of_the_machine_that_drew_them():
    pictures = [*(runs.ROOT / "docs").glob("*.png"), *(runs.ROOT / "docs").glob("*.gif")]
    assert len(pictures) > 10
    for path in pictures:
        with Image.open(path) as picture:
            said = " ".join(value for value in picture.info.values() if isinstance(value, str))
        assert not re.search(r"(?<![\w.~:/])/[\w.-]+/|\b[A-Z]:\\", said), path.name
