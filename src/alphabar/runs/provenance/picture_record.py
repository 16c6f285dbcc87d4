"""Metadata of pictures: the command that draws them, the checkpoint, the sampler, the seed and the code."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import alphabar
from alphabar.files.paths import user_path
from alphabar.files.picture_text import PictureText
from alphabar.runs.provenance.current_command import command_words
from alphabar.runs.provenance.source_code import code_revision

# Words of a command line that say where its results go and which job of a sweep it is: nothing depends on them.
OF_THE_PLACE = re.compile(r"[+~]*hydra\.(run|job|mode|output_subdir|sweep|launcher|sweeper)\b.*")


@dataclass(frozen=True)
class PictureRecord:
    """The record of the pictures that a command draws.

    words: the command line, without secrets, places of results and the home folder. details: further lines by key; see `KEYS`.
    """

    words: Sequence[str]
    details: Mapping[str, str]

    def text(self) -> PictureText:
        """Returns what a picture of several images says."""
        command = {"Command": shlex.join(self.words)} if self.words else {}
        return {**command, **self.details}

    def text_of_image(self, settings: Mapping[str, object], details: Mapping[str, str]) -> PictureText:
        """Returns what the picture of a single image says: the command with these settings draws it alone."""
        kept = [word for word in self.words if word.partition("=")[0].lstrip("+") not in settings]
        words = [*kept, *(f"{key}={value}" for key, value in settings.items())] if kept else []
        return {**PictureRecord(words, self.details).text(), **details}


def picture_record(details: Mapping[str, object]) -> PictureRecord:
    """Returns the record of the pictures of this command; None among the details is left out."""
    words = [without_home(word) for word in command_words() if not OF_THE_PLACE.fullmatch(word)]
    known = {"Software": f"alphabar {alphabar.__version__}", "Revision": code_revision(), **details}
    return PictureRecord(words, {key: without_home(str(value)) for key, value in known.items() if value is not None})


def without_home(text: str) -> str:
    """Returns the text with paths relative to the folder in which the command was started, or to the user's home, `~`."""
    for folder, short in ((user_path(".").absolute(), ""), (Path(os.path.expanduser("~")), "~/")):
        if len(folder.parts) > 1:
            text = re.sub(rf"(?<![\w.~/-]){re.escape(str(folder))}/", short, text)
    return text
