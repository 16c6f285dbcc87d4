"""The words of a command line: `key=value`."""

import re


def quoted(value: str) -> str:
    """The text as a value that Hydra reads back unchanged, whatever is in it: in quotes, with escapes."""
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return '"' + re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + (r"\"" if match[2] else ""), value) + '"'


def requoted(words: list[str]) -> list[str]:
    """The words with `hydra.run.dir` quoted so that Hydra can read it: Lightning puts bare quotes around it."""
    prefix = 'hydra.run.dir="'
    return [
        f"hydra.run.dir={quoted(word[len(prefix) : -1])}" if word.startswith(prefix) and word.endswith('"') else word
        for word in words
    ]


def split(word: str) -> tuple[str, str | None]:
    """Key (with its `+` or `~`) and value of a word; None for the value if there is no `=`."""
    key, equals, value = word.partition("=")
    return key, value if equals else None


def bare(key: str) -> str:
    """The key without `+`, `++` or `~`."""
    return key.lstrip("+~")
