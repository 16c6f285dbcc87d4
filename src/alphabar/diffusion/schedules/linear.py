"""The schedule DDPM was published with."""

import torch

from alphabar.diffusion.schedules.discrete import DiscreteSchedule


class LinearSchedule(DiscreteSchedule):
    """A schedule whose beta_t rises linearly from beta_start to beta_end (Ho et al. 2020, sec. 4).

    Raises ValueError unless 0 < beta_start < beta_end < 1 and num_steps >= 1.
    """

    def __init__(
        self,
        num_steps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        zero_terminal_snr: bool = False,
    ) -> None:
        check_range(num_steps, beta_start, beta_end)
        betas = torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64)
        super().__init__(betas, zero_terminal_snr)


class ScaledLinearSchedule(DiscreteSchedule):
    """A schedule whose sqrt(beta_t) rises linearly from sqrt(beta_start) to sqrt(beta_end): Stable Diffusion's (Rombach et al.
    2022).

    Raises ValueError unless 0 < beta_start < beta_end < 1 and num_steps >= 1.
    """

    def __init__(
        self,
        num_steps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        zero_terminal_snr: bool = False,
    ) -> None:
        check_range(num_steps, beta_start, beta_end)
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, num_steps, dtype=torch.float64)
        super().__init__(roots**2, zero_terminal_snr)


def check_range(num_steps: int, beta_start: float, beta_end: float) -> None:
    """Raises ValueError unless 0 < beta_start < beta_end < 1 and num_steps >= 1."""
    if num_steps < 1:
        raise ValueError(f"need num_steps >= 1, got num_steps={num_steps}")
    if not 0 < beta_start < beta_end < 1:
        raise ValueError(f"need 0 < beta_start < beta_end < 1, got beta_start={beta_start}, beta_end={beta_end}")
