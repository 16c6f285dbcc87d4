"""Prints the result of an evaluation, and draws its picture."""

from alphabar.evaluation.result import EvaluationResult
from alphabar.files.paths import display_path
from alphabar.plotting.memorisation import PANEL, draw_memorisation


def report_evaluation(result: EvaluationResult) -> dict[str, object]:
    """Prints the table and the files of an evaluation, draws `memorisation.png` beside the receipt, and returns the values."""
    if result.receipt is not None:
        print(f"{result.table}\nreceipt  {display_path(result.receipt)}")
        if result.panel is not None:
            picture = result.receipt.parent / PANEL
            draw_memorisation(result.panel, picture)
            print(f"picture  {display_path(picture)}")
    return result.values
