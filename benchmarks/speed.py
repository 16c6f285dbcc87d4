"""How fast we are, beside other tools on the same work and beside what the machine can do: A B A B in one process.

    python benchmarks/speed.py                                        everything
    python benchmarks/speed.py train-small overhead --rounds 7        some of it; the rest of the file stays
    python benchmarks/speed.py --without-bf16                         as on a processor without bfloat16

Prints a table for each piece of work, and writes all to speed.json and speed.png in the folder --out. "alphabar" alone is what
train.py does by default, with averages and its other callbacks, but for those that draw samples or measure (samples, film, fid,
held_out_loss) and the report; its log is metrics.csv alone. The time of a step is the median, in which a step that logs, one of
50, has no share; "overhead" has the mean. The loops of the others (benchmarks/measuring/peers.py) go without logging and files;
their default is float32. `speed.keep_memory`, which holds for a process and cannot be undone, is set for all rows before the first
round: it favours the others and speed=off, which go without it elsewhere.
A row has parameters, GFLOP of an image, the time of a step (the median of the rounds' medians, the lowest and the highest), images
per second, the rate, its share of the highest rate of a convolution or a product of matrices that was measured in the same rounds
(MFU), and the speed over the first row. A tool that is not installed is a line that says how to install it.

Machines drift by tens of per cent within minutes: only ratios of one run mean something. Beside busy neighbours, measure with one
thread and the time of the processor: OMP_NUM_THREADS=1 python benchmarks/speed.py --clock cpu
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

WITHOUT_BF16 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}  # read when torch is loaded


def main() -> None:
    """Measures, prints the tables, and writes the files."""
    if "--without-bf16" in sys.argv and any(os.environ.get(name) != value for name, value in WITHOUT_BF16.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | WITHOUT_BF16)
    from measuring.table import draw, work_as_text, write_json
    from measuring.timing import CLOCKS, used_device
    from measuring.works import WORKS, Settings

    from alphabar.allocator import keep_freed_memory
    from alphabar.cli.console import configure_logging
    from alphabar.runs.provenance.machine import hardware, versions
    from alphabar.speed import has_bfloat16_units

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"of {', '.join(WORKS)}; none: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of each in a round; none: as many as suit the work")
    parser.add_argument("--batch-size", type=int, help="images in a step; none: as many as suit the work")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--without-bf16", action="store_true", help="simulate a processor without bfloat16")
    parser.add_argument("--out", type=Path, default=Path("outputs/speed"), metavar="FOLDER")
    options = parser.parse_args()
    if unknown := [name for name in options.works if name not in WORKS]:
        parser.error(f"{unknown[0]}: need one of {', '.join(WORKS)}")
    if options.without_bf16 and used_device().type == "cuda":
        parser.error("--without-bf16: simulates a processor, got a GPU; CUDA_VISIBLE_DEVICES= hides it")
    configure_logging()
    imitates = used_device().type == "cpu" and not has_bfloat16_units()
    if imitates and not options.without_bf16:
        print("this processor only imitates bfloat16: float32 alone is measured", flush=True)
    precisions = ("float32",) if imitates or options.without_bf16 else ("float32", "bfloat16")
    machine = {**hardware(used_device()), "without_bf16": options.without_bf16, "clock": options.clock, "versions": versions()}
    machine["all_rows_keep_freed_memory"] = keep_freed_memory()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(options.rounds, options.steps, options.batch_size, options.clock, precisions, Path(folder))
        for name in options.works or WORKS:
            work = WORKS[name].measure(settings)
            print(work_as_text(name, work), flush=True)
            draw(options.out / "speed.png", write_json(options.out / "speed.json", machine, {name: work}))


if __name__ == "__main__":
    main()
