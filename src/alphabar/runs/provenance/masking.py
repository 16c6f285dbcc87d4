"""Masking of secrets, such as API keys, in command lines, configurations and changes of the code that are written down."""

import re
from typing import Any

MASK = "***"
NAME = r"(?:api_?key|access_?key|private_?key|secret|password|passwd|passphrase|credentials?|(?:auth_?)?token|authorization)"
SECRET_KEY = re.compile(rf"(?i)(?:.*[._-])?{NAME}")  # wandb.api_key and hf_token, but not tokens
# A secret key inside a text, as in {a:1,api_key:abc}, and its value.
KEYED = re.compile(rf"(?i)((?:{NAME})['\"]?\s*[:=]\s*)(\"[^\"]*\"|'[^']*'|[^\s,}}\]'\"]+)")
# Values that tell by themselves what they are: tokens of well-known services, and the name and password in a URL.
SHAPED = re.compile(
    r"\b(?:hf_\w{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}|A[KS]IA[0-9A-Z]{16}"
    r"|AIza[\w-]{35}|wandb_v\d_\w{20,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)|(?<=://)[^/\s:@'\"]*:[^/\s@'\"]+(?=@)"
)
RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w+/.=-]{16,}")  # a value that nobody writes by hand


def is_secret_key(key: str) -> bool:
    """Returns whether the last part of a key says that its value is a secret."""
    return SECRET_KEY.fullmatch(key.lstrip("+~")) is not None


def masked_text(text: str) -> str:
    """Returns the text with `***` in the place of every secret in it."""
    return KEYED.sub(rf"\g<1>{MASK}", SHAPED.sub(MASK, text))


def masked_word(word: str) -> str:
    """Returns a word of a command line, such as `key=value`, without secrets."""
    key, equals, value = word.partition("=")
    if equals and is_secret_key(key):
        return word if value in ("", "null") else f"{key}={MASK}"
    return masked_text(word)


def masked_code(text: str) -> str:
    """Returns changes of code without tokens; a value beside a secret's name counts as one only if it looks drawn at random."""

    def masked(match: re.Match[str]) -> str:
        return f"{match[1]}{MASK}" if RANDOM.fullmatch(match[2].strip("'\"")) else match[0]

    return KEYED.sub(masked, SHAPED.sub(MASK, text))


def masked_config(value: Any, key: str = "") -> Any:
    """Returns a copy of a plain configuration without secrets; keys and types stay as they are where there is none."""
    if isinstance(value, dict):
        return {name: masked_config(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [masked_config(item, key) for item in value]
    if value is not None and not isinstance(value, bool) and is_secret_key(key):
        return MASK
    return masked_text(value) if isinstance(value, str) else value
