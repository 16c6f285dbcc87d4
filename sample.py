"""Draws images from a checkpoint; python sample.py --help says how."""

from omegaconf import DictConfig

from alphabar.cli.command import command


@command("sample")
def main(cfg: DictConfig) -> dict[str, object]:
    """Images, as many as the configuration says."""
    from alphabar.config.build import build  # here, since objects load torch, which help and completion do not need

    return build(cfg.task, "task").run()


if __name__ == "__main__":
    main()
