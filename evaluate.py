"""Measures images and models, compares what was measured, and makes reports; python evaluate.py --help says how."""

from omegaconf import DictConfig

from alphabar.cli.command import command
from alphabar.evaluation.sources import check_config

SUBCOMMANDS = {
    "compare": "alphabar.evaluation.compare:compare_command",
    "report": "alphabar.reports.report:report_command",
    "record": "alphabar.cli.summaries.show_record:record_command",
}


@command("evaluate", SUBCOMMANDS, check_config)
def main(cfg: DictConfig) -> dict[str, object]:
    """Measures figures by the protocol that the configuration states, and prints them."""
    from alphabar.cli.summaries.evaluation_summary import (
        report_evaluation,  # here, since these load torch, which help does not need
    )
    from alphabar.config.build import build

    return report_evaluation(build(cfg.metric, "metric").run())


if __name__ == "__main__":
    main()
