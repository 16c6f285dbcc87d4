"""The words of a command line: `key=value`."""

import re


def quoted(value: str) -> str:
    """The text as a value that Hydra reads back unchanged, whatever is in it: in quotes, with escapes."""
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return '"' + re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + (r"\"" if match[2] else ""), value) + '"'


def requoted(words: list[str]) -> list[str]:
    """The words that Lightning starts another process with, made readable: it puts bare quotes around the run's folder."""
    words = list(words)
    for index, word in enumerate(words[1:]):
        if word.startswith("hydra.job.name=train_ddp_process_"):
            key, value = words[index].split("=", 1)
            words[index] = f"{key}={quoted(value[1:-1])}"
    return words


def split(word: str) -> tuple[str, str | None]:
    """Key (with its `+` or `~`) and value of a word; None for the value if there is no `=`."""
    key, equals, value = word.partition("=")
    return key, value if equals else None


def bare(key: str) -> str:
    """The key without `+`, `++` or `~`."""
    return key.lstrip("+~")
