"""Feeds the readers of other people's files with damaged ones: each has to be read, or refused with one line (UserError).

    python benchmarks/fuzz.py --seconds 60                   for each reader
    python benchmarks/fuzz.py outputs/train/NAME/checkpoints/last.ckpt --cases 500

A file that ends in another error, takes more than 10 seconds or 2 GB is kept in the folder `fuzz`, and the script fails.
"""

import argparse
import io
import json
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from PIL import Image

from alphabar.data import Shape
from alphabar.data.folders.captions import find_caption_files
from alphabar.data.user_images import common_size, read_user_images
from alphabar.errors import UserError
from alphabar.evaluation.files import open_samples
from alphabar.evaluation.receipt import Receipt, read_receipt, write_receipt
from alphabar.files.reading import known_formats
from alphabar.reports.report import report_command
from alphabar.runs.folders.run_dir import stored_config
from alphabar.runs.metrics_csv import read_metrics
from alphabar.sampling.model import load_model

Read = Callable[[Path], object]
TIME, MEMORY = 10, 2 * 2**30  # what a file may take: seconds, bytes
EXTREMES = (b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80")
WRITABLE = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif", "PPM": "ppm", "TGA": "tga"}
CONFIG = "seed: 0\nmodule: {_target_: alphabar.training.modules.diffusion.DiffusionModule, seed: ${seed}}\nshape: [1, 8]\n"


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Returns the content with up to eight faults: bytes that are flipped, replaced, left out, repeated or set to extremes."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        start = rng.randrange(len(found) + 1)
        length = rng.choice((1, 1, 2, 4, 16, 256))
        match rng.randrange(6):
            case 0:
                found[start : start + 1] = bytes([rng.randrange(256)])
            case 1:
                found[start : start + length] = rng.randbytes(length)
            case 2:
                del found[start : start + length]
            case 3:
                found[start:start] = found[start : start + length] * rng.randint(1, 3)
            case 4:
                found[start : start + 4] = rng.choice(EXTREMES)
            case 5 if rng.random() < 0.2:
                del found[start:]
    return bytes(found)


def images() -> Iterator[tuple[str, bytes, Read]]:
    """Yields (name, content, reader) of a small image in each format that can be written here."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8))
    for kind, suffix in WRITABLE.items():
        if kind in known_formats():
            picture.save(file := io.BytesIO(), kind)
            yield f"image.{suffix}", file.getvalue(), read_image


def read_image(path: Path) -> None:
    """Reads an image as one of a user and as a sample."""
    common_size(str(path), 1)
    read_user_images(str(path), Shape(3, 8, 8), 1, bits=8)
    read_user_images(str(path), Shape(1, 8, 8), 1, bits=16)


def read_caption_table(path: Path) -> None:
    """Reads the caption of one image from a table of captions."""
    find_caption_files(path.parent, ["0.png"], []).read(["0.png"], "text")


def read_samples(path: Path) -> None:
    """Reads an array of samples to its end."""
    samples = open_samples(path)
    for _ in samples.batches(len(samples), 4, 0, 1):
        pass


def arrays() -> Iterator[tuple[str, bytes, Read]]:
    """Yields arrays of samples, compressed and not."""
    for save in (np.savez, np.savez_compressed):
        save(file := io.BytesIO(), images=np.zeros((5, 8, 8, 3), np.uint8))
        yield f"{save.__name__}.npz", file.getvalue(), read_samples


def texts(folder: Path) -> Iterator[tuple[str, bytes, Read]]:
    """Yields metadata, a receipt, figures and a configuration."""
    lines = "".join(json.dumps({"file_name": f"{index}.png", "text": "a heart"}) + "\n" for index in range(3))
    yield "metadata.jsonl", lines.encode(), read_caption_table
    yield "metadata.csv", b'file_name,text\n0.png,"a heart, red"\n1.png,a star\n', read_caption_table
    write_receipt(Receipt((), {"num": 3}, {}, {}, {}), folder)
    yield "receipt.json", (folder / "receipt.json").read_bytes(), read_receipt
    yield "metrics.csv", b"step,train/loss\n5,0.5\n10,0.25\n", read_metrics
    yield "config.yaml", CONFIG.encode(), lambda path: stored_config(path.parent)
    yield "results.csv", b"job,seed,state,folder,loss\n0,1,finished,a,0.5\n", lambda path: report_command([str(path.parent)])


def checkpoints(path: Path | None) -> Iterator[tuple[str, bytes, Read]]:
    """Yields the checkpoint, if one is given, and its pickle, which is read in an archive whose checksums are right."""
    if path is None:
        return
    yield "file.ckpt", path.read_bytes(), lambda file: load_model(file, "ema")
    with zipfile.ZipFile(path) as archive:
        records = {each.filename: archive.read(each) for each in archive.infolist()}
    (name,) = (each for each in records if each.endswith("/data.pkl"))

    def read(file: Path) -> None:
        whole = file.with_suffix(".ckpt")
        with zipfile.ZipFile(whole, "w") as archive:
            for each, content in (records | {name: file.read_bytes()}).items():
                archive.writestr(each, content)
        load_model(whole, "ema")

    yield "data.pkl", records[name], read


def outcome(read: Read, path: Path) -> str | None:
    """Returns how reading a file failed; None if it was read or refused as it should be."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {TIME} seconds")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(TIME)
    try:
        read(path)
    except UserError as error:
        return None if "\n" not in str(error) else f"several lines: {str(error)!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        signal.alarm(0)
    return None


def fuzz(name: str, content: bytes, read: Read, folder: Path, arguments: argparse.Namespace) -> int:
    """Reads damaged copies of a file until time or cases are over, keeps those that fail, and returns their number."""
    rng, begin, num, failures = random.Random(f"{name} {arguments.seed}"), time.perf_counter(), 0, dict[str, str]()
    path = folder / name
    while time.perf_counter() - begin < arguments.seconds and (arguments.cases is None or num < arguments.cases):
        path.write_bytes(found := damaged(content, rng))
        num += 1
        if (failure := outcome(read, path)) is not None and failure.partition(":")[0] not in failures:
            arguments.found.mkdir(exist_ok=True)
            (kept := arguments.found / f"{num}-{name}").write_bytes(found)
            failures[failure.partition(":")[0]] = f"{kept}: {failure}"
    path.unlink(missing_ok=True)
    print(f"{name}: {num} files, {len(failures)} kinds of failure", *failures.values(), sep="\n    ", flush=True)
    return len(failures)


def main() -> None:
    """Prints a line for each kind of file, and one for each kind of failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="for each kind of file")
    parser.add_argument("--cases", type=int, help="at most, of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="one of a small network")
    parser.add_argument("--found", type=Path, default=Path("fuzz"), help="the folder for files that fail")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    used = resource.getrlimit(resource.RLIMIT_AS)[1]
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, used))
    with tempfile.TemporaryDirectory() as home:
        kinds = [*images(), *arrays(), *texts(Path(home)), *checkpoints(arguments.checkpoint)]
        failures = sum(fuzz(*kind, Path(home), arguments) for kind in kinds)
    if failures:
        sys.exit(f"{failures} failures; the files are in {arguments.found}")


if __name__ == "__main__":
    main()
