"""Trains a diffusion model; python train.py --help says how."""

from omegaconf import DictConfig

from alphabar.cli.command import command, task_overrides
from alphabar.reports.at_end import leave_report


@command("train")
def main(cfg: DictConfig) -> dict[str, object]:
    """One run, from its configuration to its result."""
    from alphabar.training.run import train_until_stopped  # here, since it loads torch, which help and completion do not need

    return train_until_stopped(cfg, task_overrides(), leave_report)


if __name__ == "__main__":
    main()
