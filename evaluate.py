"""Measures images and models, compares what was measured, and makes reports; python evaluate.py --help says how."""

from omegaconf import DictConfig

from alphabar.cli.command import command


@command("evaluate", verbs={"compare": "alphabar.evaluation.compare", "report": "alphabar.reports.report"})
def main(cfg: DictConfig) -> dict[str, object]:
    """Figures, by the protocol that the configuration states."""
    from alphabar.config.build import build  # here, since objects load torch, which help and completion do not need

    return build(cfg.metric, "metric").run()


if __name__ == "__main__":
    main()
