"""Measures images and models, compares what was measured, and makes reports; python evaluate.py --help says how."""

from omegaconf import DictConfig

from alphabar.training.cli import command


@command(
    "evaluate",
    aliases={"data": "_data"},
    verbs={"compare": "alphabar.training.evaluation.compare", "report": "alphabar.training.reports.report"},
)
def main(cfg: DictConfig) -> dict[str, object]:
    """Figures, by the protocol that the configuration states."""
    from alphabar.training.config import build  # here, since objects load torch, which help and completion do not need

    return build(cfg.metric, "metric").run()


if __name__ == "__main__":
    main()
