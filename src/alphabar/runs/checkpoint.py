"""Reading checkpoints: a denoiser to sample from, out of a file."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig, OmegaConf

from alphabar.config.build import build, check
from alphabar.data import Shape
from alphabar.errors import UserError
from alphabar.models.codecs.autoencoder import Autoencoder
from alphabar.models.codecs.embedding import ImageEmbedding as EmbeddingCodec
from alphabar.models.conditioners.image_embedding import ImageEmbedding
from alphabar.models.pairs.stored import StoredPair
from alphabar.runs.ema.posthoc import of_decay, of_length
from alphabar.runs.torch_files import content_of
from alphabar.training.modules.diffusion import DiffusionModule


class Loaded(NamedTuple):
    """A module with the weights of a checkpoint, in eval mode on the CPU, and what it was trained with.

    before: the models, first to last, that make what it is told.
    """

    module: DiffusionModule
    config: DictConfig
    shape: Shape
    step: int
    before: tuple["Loaded", ...] = ()

    @property
    def chain(self) -> tuple["Loaded", ...]:
        """All of them, itself the last."""
        return (*self.before, self._replace(before=()))

    @property
    def first(self) -> "Loaded":
        """That which is told what a user says."""
        return self.chain[0]


class Moved(NamedTuple):
    """Where frozen parts lie that checkpoints name and do not hold; None: where they lay in training.

    codec_name: the autoencoder of a model in latents. pair_name: the image-text pair of a prior or a decoder.
    """

    codec_name: str | None = None
    pair_name: str | None = None


NOTHING = Moved()
# Which nodes of a configuration name them.
PLACES = {"codec_name": ("module.codec",), "pair_name": ("module.codec.pair", "module.conditioner.pair")}
LACKS = {"codec_name": "not one in the latents of an autoencoder", "pair_name": "built on no image-text pair"}


def read(path: str | Path) -> dict[str, Any]:
    """The content of a training checkpoint; nothing in it is executed. Raises UserError if it is not one."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint={path}: no such file; a run keeps its own in checkpoints/last.ckpt and best.ckpt")
    content = content_of(path, f"checkpoint={path}")
    missing = {"state_dict", "config", "global_step"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise UserError(f"checkpoint={path}: not a checkpoint of alphabar, it has no {', '.join(sorted(missing))}")
    return content


def load(
    path: str | Path,
    weights: Literal["ema", "raw"],
    ema_length: float | None = None,
    ema_decay: float | None = None,
    moved: Moved = NOTHING,
) -> Loaded:
    """The module of a checkpoint with its averaged or its live weights.

    ema_length, ema_decay: see `of_length` and `of_decay`; None: the average that the run itself used.
    moved: where frozen parts that are not in the file lie now.
    Raises UserError if the file is not a checkpoint, has no such averaged weights, or holds weights of another network.
    """
    content = read(path)
    config = OmegaConf.create(content["config"])
    assert isinstance(config, DictConfig)
    check(OmegaConf.create({"module": config.module}))  # only this is built; loggers and callbacks may not be installed here
    module = build_module(config, moved)
    if not isinstance(module, DiffusionModule):
        raise UserError(
            f"checkpoint={path}: need one of a diffusion model, got one of {type(module).__name__}, which draws no images"
        )
    state = content["state_dict"]
    if weights == "ema":
        if "ema" not in content:
            raise UserError(f"checkpoint={path}: has no averaged weights; use weights=raw")
        if ema_length is not None:
            averages = of_length(content, Path(path), ema_length)
        else:
            averages = content["ema"]["weights"] if ema_decay is None else of_decay(content, ema_decay)
        state = state | averages
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"checkpoint={path}: its weights do not fit its configuration ({str(error).splitlines()[0]})") from error
    shape = Shape(config.shape.channels, config.shape.resolution)
    return Loaded(module.eval().requires_grad_(False), config, shape, content["global_step"])


def build_module(config: DictConfig, moved: Moved) -> Any:
    """The module of a checkpoint's configuration. Raises UserError, with the key that helps, if a frozen part is not at hand."""
    move(config, moved)
    try:
        return build(config.module)
    except UserError as error:
        first = str(error).split(": ")[0]
        for key, nodes in frozen(config).items():
            if any(place == first or place.startswith(f"{first}.") for place in nodes) and first != "module":
                raise UserError(f"{error}; {key}=... says where it lies now") from error
        raise


def frozen(config: DictConfig) -> dict[str, dict[str, DictConfig]]:
    """The nodes that name frozen parts, by their place, by the key of `Moved` that says where they lie."""
    nodes: dict[str, Any] = {place: OmegaConf.select(config, place) or {} for places in PLACES.values() for place in places}
    return {key: {place: nodes[place] for place in places if "name" in nodes[place]} for key, places in PLACES.items()}


def move(config: DictConfig, moved: Moved) -> None:
    """Writes down where frozen parts lie now, in the configuration of a model or, resolved, of a run; what names none stays."""
    for key, nodes in frozen(config).items():
        for place in nodes if (name := moved._asdict()[key]) is not None else ():
            for copy in (place, place.removeprefix("module.")):
                if "name" in (OmegaConf.select(config, copy) or {}):
                    OmegaConf.update(config, f"{copy}.name", name)


def whereabouts(module: DiffusionModule) -> Moved:
    """Where the frozen parts of a model lie, for another version of the same model."""
    codec = module.codec
    pairs = [part.pair for part in (codec, module.conditioner) if isinstance(part, EmbeddingCodec | ImageEmbedding)]
    return Moved(
        codec.autoencoder.name if isinstance(codec, Autoencoder) else None,
        next((pair.name for pair in pairs if isinstance(pair, StoredPair)), None),
    )
