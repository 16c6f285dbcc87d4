"""Names of figures, which contain the settings that must be equal for two of them to be compared."""


def figure_name(metric: str, num_images: int, features: str, label: str) -> str:
    """Returns the name of a figure of `num_images` images: `fid/n1000-classifier-ema-ddim50`. label: the origin of the images."""
    return f"{metric}/n{num_images}-{features}-{label}"


def floor_figure_name(metric: str, num_images: int, features: str) -> str:
    """Returns the name of the same figure of as many real images: `fid/floor-n1000-classifier`."""
    return f"{metric}/floor-n{num_images}-{features}"


def bound_name(num_images: int, weights: str, steps: str) -> str:
    """Returns the name of the variational bound of held-out images: `bpd/vlb-n1000-heldout-ema-beta1000`."""
    return f"bpd/vlb-n{num_images}-heldout-{weights}-{steps}"


def flow_name(num_images: int, weights: str, steps: str) -> str:
    """Returns the name of bits per dimension under the ODE: `bpd/ode-n1000-heldout-ema-heun100-probes1`."""
    return f"bpd/ode-n{num_images}-heldout-{weights}-{steps}"
