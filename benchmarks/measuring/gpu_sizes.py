"""How much benchmarks/gpu.py measures."""

from dataclasses import dataclass

OFF, AUTO = "off", "auto"


@dataclass(frozen=True)
class Size:
    """How much is measured.

    cifar10, small: words that choose the networks. batch_sizes, steps: of training. num, evaluations: of sampling, in commands
    of `num_at_once` images, and `sampling` what is drawn with. loss_steps: of each run whose loss is compared, with
    `loss_batch` images, in `variants` of speed.
    works: of the table, each with its rounds, steps and images. num_features: the images whose features are compared.
    """

    cifar10: tuple[str, ...]
    small: tuple[str, ...]
    num_images: int
    batch_sizes: tuple[int, ...]
    steps: int
    num: int
    num_at_once: int
    evaluations: int
    sampling: dict[str, tuple[str, ...]]
    loss_steps: int
    loss_batch: int
    seeds: tuple[int, ...]
    variants: dict[str, tuple[str, ...]]
    works: dict[str, tuple[int, int | None, int | None]]
    num_features: int


FULL = Size(
    cifar10=("network=unet_cifar10", "network.dropout=0"),
    small=("network=unet_small",),
    num_images=20_480,
    batch_sizes=(128, 256, 512, 1024),
    steps=20,
    num=50_000,
    num_at_once=10_000,
    evaluations=50,
    sampling={"auto": (), "auto, compiled": ("speed.compile=true",)},
    loss_steps=300,
    loss_batch=64,
    seeds=(0, 1, 2),
    variants={OFF: ("speed=off",), AUTO: (), "auto, compiled": ("speed.compile=true",)},
    works={
        "train-cifar10": (2, 10, 256),
        "sample": (2, None, 256),
        "train-small": (2, 20, 128),
        "fid-features": (2, 5, 256),
        "overhead": (3, 60, None),
        "overhead-tiny": (3, 400, None),
    },
    num_features=256,
)
TINY = (
    "network=unet_tiny",
    "network.base_channels=8",
    "network.norm_groups=4",
    "network.attention_resolutions=[]",
    "network.channel_multipliers=[1]",
)
SMOKE = Size(
    cifar10=TINY,
    small=TINY,
    num_images=64,
    batch_sizes=(2,),
    steps=1,
    num=4,
    num_at_once=2,
    evaluations=2,
    sampling={"auto": ()},
    loss_steps=2,
    loss_batch=4,
    seeds=(0, 1),
    variants={OFF: ("speed=off",), AUTO: ()},
    works={"overhead-tiny": (1, 1, 2)},
    num_features=2,
)
