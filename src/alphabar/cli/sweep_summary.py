"""What the command line says of a sweep that has ended."""

from alphabar.cli.exit_status import Ending
from alphabar.runs.console import shown
from alphabar.runs.sweep import PICTURE, TABLE, opened


def finish_sweeps(ending: Ending) -> Ending:
    """Prints the table and draws the picture of this process's sweep, if it has one; its failed jobs make it fail."""
    for sweep in [sweep for sweep in opened if sweep.jobs]:
        print(f"\n{sweep.report()}\n  table    {shown(sweep.folder / TABLE)}")
        if any(job.state == "finished" for job in sweep.jobs):
            from alphabar.reports import pareto
            from alphabar.reports.sweep import draw

            draw(sweep, sweep.folder / PICTURE)
            print(f"  picture  {shown(sweep.folder / PICTURE)}", flush=True)
            pareto.report(sweep)
        bad = [str(job.num) for job in sweep.jobs if job.state != "finished"]
        if bad and ending.state != "stopped" and not ending.is_bug:
            where = f"the column 'error' of {shown(sweep.folder / TABLE)}, and error.txt in their folders"
            line = f"{len(bad)} of {len(sweep.jobs)} jobs did not finish: {', '.join(bad)}; see {where}"
            ending = Ending("failed", ending.code or 1, (line,))
    opened.clear()
    return ending
