"""The summary of a preparation of images."""

import json
import shlex

from alphabar.data.preparation import PreparedFolder
from alphabar.data.sources.prepared import SKIPPED
from alphabar.errors import printable
from alphabar.files.paths import display_path
from alphabar.progress import format_duration
from alphabar.runs.provenance.current_command import with_invocations

NUM_NAMED = 3  # skipped images that are named


def report_preparation(result: PreparedFolder) -> dict[str, object]:
    """Prints which images were prepared and skipped, and the command that trains on them; returns the figures."""
    manifest, place = result.manifest, display_path(result.folder)
    channels, height, width = manifest.shape
    held_out = f"{manifest.num_held_out:,} held out"
    print(printable(f"images   {manifest.num_train:,} to train on, {held_out}, {height}x{width}, {channels} channels"))
    if manifest.num_skipped:
        for line in (result.folder / SKIPPED).read_text(encoding="utf-8").splitlines()[:NUM_NAMED]:
            print(printable(f"skipped  {json.loads(line)['problem']}"))
        if manifest.num_skipped > NUM_NAMED:
            print(printable(f"skipped  {manifest.num_skipped:,} in all, see {place}/{SKIPPED}"))
    pace = (
        f" in {format_duration(result.seconds)}, {result.num_read / result.seconds:,.0f} images/s"
        if result.num_read
        else ", before"
    )
    print(printable(f"written  {result.num_bytes / 1e6:,.1f} MB to {place}{pace}"))
    print(with_invocations(f"train    python train.py data=prepared data.root={shlex.quote(place)}"))
    return {"num_images": manifest.num_images, "num_skipped": manifest.num_skipped, "folder": str(result.folder)}
