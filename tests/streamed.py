"""The same images as files, as tar files of WebDataset and as Parquet files, these two in the order of the files."""

import io
import tarfile

import numpy as np
import torch
from PIL import Image

from alphabar.data.sources.folder import FolderSource

NUM, PER_SHARD = 60, 7
PIXELS = np.random.RandomState(0).randint(0, 256, (NUM, 8, 8, 3)).astype(np.uint8)


def assert_equal_data(ours, theirs, *more):
    """Both data have the same images in the same places, and the same is known of them; so it is with the attributes `more`."""
    for name in ("shape", "classes", "captions", *more):
        assert getattr(ours, name) == getattr(theirs, name)
    for mine, other in ((ours.train_set, theirs.train_set), (ours.held_out_set, theirs.held_out_set)):
        assert len(mine) == len(other) > 0
        rows = torch.randperm(len(mine))
        batch, expected = mine.batch(rows), other.batch(rows)
        assert batch.keys() == expected.keys()
        assert all(batch[name].equal(expected[name]) for name in batch)


def png(number):
    file = io.BytesIO()
    Image.fromarray(PIXELS[number]).save(file, "PNG")
    return file.getvalue()


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_shards(folder, items):
    """Writes items, lists of {suffix: content}, into tar files."""
    folder.mkdir(exist_ok=True)
    for first in range(0, len(items), PER_SHARD):
        files = {
            f"{first + place:04d}.{suffix}": content
            for place, item in enumerate(items[first : first + PER_SHARD])
            for suffix, content in item.items()
        }
        write_tar(folder / f"x-{first // PER_SHARD:03d}.tar", files)
    return folder


def write_parquet(folder, order):
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    starts = range(0, len(order), PER_SHARD)
    for place, first in enumerate(starts):
        some = order[first : first + PER_SHARD]
        rows = {
            "image": [{"bytes": png(number), "path": None} for number in some],
            "text": [f"the number {number % 5}" for number in some],
            "label": [number % 2 for number in some],
        }
        (folder / "data").mkdir(parents=True, exist_ok=True)
        path = folder / "data" / f"train-{place:05d}-of-{len(starts):05d}.parquet"
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))


def write_all(root):
    """Writes the images as files, as tar files and as Parquet files, these two in the order of the files."""
    lines = []
    for number in range(NUM):
        path = root / "photos" / ("cat", "dog")[number % 2] / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
        lines.append(f'{{"file_name": "{path.relative_to(root / "photos")}", "text": "the number {number % 5}"}}')
    (root / "photos/metadata.jsonl").write_text("\n".join(lines))
    files = FolderSource(str(root / "photos"), 8)._files
    order = [int(name.rpartition("/")[2].removesuffix(".png")) for _, name in files]
    known = [{"png": png(each), "txt": f"the number {each % 5}".encode(), "cls": str(each % 2).encode()} for each in order]
    write_shards(root / "shards", known)
    write_parquet(root / "rows", order)
