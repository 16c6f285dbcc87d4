"""Decodes a folder of images, or any other data, once into one file; python prepare.py --help says how."""

from omegaconf import DictConfig

from alphabar.cli.command import command


@command("prepare")
def main(cfg: DictConfig) -> dict[str, object]:
    """A folder for data=prepared, made of the images that the configuration names."""
    from alphabar.cli.summaries.preparation_summary import (
        report_preparation,  # here, since objects load torch, which help does not need
    )
    from alphabar.config.build import build

    return report_preparation(build(cfg.task, "task").run())


if __name__ == "__main__":
    main()
