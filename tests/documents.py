"""The commands that README.md, other documents of the root and docs/*.md show, as a reader would type them."""

import itertools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
CARRIED = ("checkpoint", "data.root", "num", "sampler", "sampler.num_steps")  # what "`command`, `other words`" leaves unsaid


@dataclass(frozen=True)
class Command:
    """A command with the name of the document that shows it."""

    document: str
    words: tuple[str, ...]

    @property
    def script(self) -> str:
        return self.words[1] if self.words[0] == "python" else ""

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.words[2:]

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"


def blocks(text, language):
    """Returns the contents of the fenced blocks of a language."""
    return [content for name, content in FENCE.findall(text) if name == language]


def commands():
    """Returns every command of every document, each once."""
    found = {tuple(words): file.name for file in reversed(FILES) for words in commands_of(file.read_text())}
    return [Command(document, words) for words, document in reversed(found.items())]


def commands_of(text):
    """Yields the commands of a document's bash blocks, table cells and running text, each as a list of arguments."""
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words
    prose = FENCE.sub("", text)
    cells = [cell for line in prose.splitlines() if line.startswith("|") for cell in re.split(r"(?<!\\)\|", line)]
    for cell in cells:
        yield from commands_of_cell(SPAN.findall(cell))
    running = " ".join(line for line in prose.splitlines() if not line.startswith(("|", "    ")))
    yield from (shlex.split(span) for span in SPAN.findall(running) if span.startswith(("python ", "make ")))


def commands_of_cell(spans):
    """Yields a cell's commands: "`python train.py method=edm`, `method=flow`" are two, of the same script."""
    first = []
    for span in spans:
        words = shlex.split(span)
        if words[0] in ("python", "make"):
            first = words
            yield words
        elif first[:1] == ["python"] and all("=" in word for word in words):
            given = {key(word) for word in words}
            yield [*first[:2], *(word for word in first[2:] if key(word) in CARRIED and key(word) not in given), *words]
        elif first[:1] == ["python"] and len(words) == 1 and "=" in first[-1]:  # "`task=inpaint`, `encode`"
            yield [*first[:-1], f"{key(first[-1])}={words[0]}"]


def typed(text):
    """Yields what a document shows to be typed: lines of bash blocks, and spans that are a command or overrides."""
    for block in blocks(text, "bash"):
        yield from (line.partition(" #")[0] for line in block.splitlines())
    yield from (span for span in SPAN.findall(FENCE.sub("", text)) if re.match(r"(python|make) |['+~]*[a-z][\w./@]*=", span))


def patterns(command):
    """Returns the characters outside of quotes that a shell such as zsh takes for a pattern of file names."""
    return re.findall(r"[][?*]", re.sub(r"'[^']*'|\"[^\"]*\"", "", command))


def key(word):
    return word.split("=")[0]


def jobs(words):
    """Returns the arguments of the jobs of a sweep, with each swept value in one of them; of another command its arguments alone."""
    if "-m" not in words:
        return [list(words)]
    choices = [values(word) for word in words if word != "-m"]
    return [list(job) for job in _each_value_once(choices)]


def _each_value_once(choices):
    length = max(len(each) for each in choices)
    return list(
        itertools.islice(zip(*(itertools.chain(each, itertools.repeat(each[-1])) for each in choices), strict=True), length)
    )


def values(word):
    """Returns an override for each of the values that an override sweeps over."""
    name, _, value = word.partition("=")
    return [word] if value.startswith("[") or "," not in value else [f"{name}={each}" for each in value.split(",")]
