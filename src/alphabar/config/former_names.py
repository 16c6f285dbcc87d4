"""Names of earlier versions of alphabar, by which the checkpoints, run folders and sweeps of those versions still load."""

from collections.abc import Mapping
from typing import Any

# Former modules and packages of classes that configurations name -> the current ones; the longest match applies.
FORMER_MODULES = {
    "alphabar.data.arrays": "alphabar.data.sources.arrays",
    "alphabar.data.dataset": "alphabar.data.sources.dataset",
    "alphabar.data.digits": "alphabar.data.sources.digits",
    "alphabar.data.folder": "alphabar.data.sources.folder",
    "alphabar.data.huggingface": "alphabar.data.sources.huggingface",
    "alphabar.data.own_datamodule": "alphabar.data.sources.own_datamodule",
    "alphabar.data.prepared": "alphabar.data.sources.prepared",
    "alphabar.data.torchvision": "alphabar.data.sources.torchvision",
    "alphabar.data.torchvision_catalogue": "alphabar.data.sources.torchvision_catalogue",
    "alphabar.data.webdataset": "alphabar.data.sources.webdataset",
    "alphabar.diffusion.grids": "alphabar.diffusion.timesteps",
    "alphabar.metrics.automatic": "alphabar.metrics.features.automatic",
    "alphabar.metrics.classifier": "alphabar.metrics.features.classifier",
    "alphabar.metrics.clip": "alphabar.metrics.features.clip",
    "alphabar.metrics.contrastive": "alphabar.metrics.features.contrastive",
    "alphabar.metrics.dinov2": "alphabar.metrics.features.dinov2",
    "alphabar.metrics.feature_network": "alphabar.metrics.features.feature_network",
    "alphabar.metrics.inception": "alphabar.metrics.features.inception",
    "alphabar.metrics.pixels": "alphabar.metrics.features.pixels",
    "alphabar.metrics.pretrained": "alphabar.metrics.features.pretrained",
    "alphabar.metrics.self_supervised": "alphabar.metrics.features.self_supervised",
    "alphabar.metrics.several": "alphabar.metrics.features.several",
    "alphabar.training.autoencoding": "alphabar.training.modules.autoencoder",
    "alphabar.training.contrastive": "alphabar.training.modules.contrastive",
    "alphabar.training.data": "alphabar.data",
    "alphabar.training.evaluation": "alphabar.evaluation",
    "alphabar.training.guiding": "alphabar.sampling.guidance_config",
    "alphabar.training.likelihood": "alphabar.evaluation.likelihood",
    "alphabar.training.lr_schedules": "alphabar.training.optimization.lr_schedules",
    "alphabar.training.metrics": "alphabar.metrics",
    "alphabar.training.module": "alphabar.training.modules.diffusion",
    "alphabar.training.optimizers": "alphabar.training.optimization.optimizers",
    "alphabar.training.perceptual": "alphabar.metrics.perceptual",
    "alphabar.training.sampling": "alphabar.sampling.command",
    "alphabar.training.tasks": "alphabar.sampling.tasks",
}
# Former names of classes that have been renamed or moved, with the current name of the module they were in -> the current names.
FORMER_CLASSES: dict[str, str] = {
    "alphabar.diffusion.objectives.weightings.Uniform": "alphabar.diffusion.objectives.weightings.UniformWeighting",
    "alphabar.metrics.pair.PairFeatures": "alphabar.metrics.features.contrastive.ContrastiveFeatures",
    "alphabar.models.codecs.embedding.ImageEmbedding": "alphabar.models.codecs.clip_embeddings.CLIPEmbeddings",
    "alphabar.models.pairs.stored.StoredPair": "alphabar.models.clip.stored.StoredCLIP",
    "alphabar.models.pairs.towers.Towers": "alphabar.models.clip.towers.Towers",
    "alphabar.training.callbacks.ema.EMA": "alphabar.training.ema.EMA",
    "alphabar.training.callbacks.ema.PowerEMA": "alphabar.training.ema.PowerEMA",
    "alphabar.training.callbacks.embeddings.Embeddings": "alphabar.training.callbacks.embeddings.EmbeddingSimilarity",
    "alphabar.training.callbacks.pair.WritePair": "alphabar.training.callbacks.clip.ExportCLIP",
    "alphabar.training.callbacks.retrieval.Retrieval": "alphabar.training.callbacks.retrieval.HeldOutRetrieval",
}
# Arguments that have been renamed: (the module of the class, or a package that it is in; the former name) -> the name.
FORMER_ARGUMENTS: dict[tuple[str, str], str] = {
    ("alphabar.diffusion.samplers", "grid"): "timesteps",
    ("alphabar.models.codecs.clip_embeddings", "pair"): "clip",
    ("alphabar.models.conditioners.image_embedding", "pair"): "clip",
}
# Keys at the root of a run's configuration that have been renamed.
FORMER_KEYS = {"grid": "timesteps", "pair": "clip", "pair_name": "clip_name"}
WARMUP = "warmup_steps"
# Keys below the root that have moved to another place, as a command line gives them.
FORMER_PLACES = {f"module.{WARMUP}": f"lr_scheduler.{WARMUP}"}


def current_target(target: str) -> str:
    """Returns the current dotted name of a class, which differs if the class has been moved or renamed."""
    former = next((place for place in sorted(FORMER_MODULES, reverse=True) if target.startswith(f"{place}.")), None)
    if former is None:
        return FORMER_CLASSES.get(target, target)
    return current_target(FORMER_MODULES[former] + target.removeprefix(former))


def upgrade_config(content: Any) -> Any:
    """Returns the plain content of a stored configuration with the current names of keys, classes and arguments."""
    renamed = _with_current_names(content)
    if not isinstance(renamed, dict):
        return renamed
    return _with_lr_scheduler({FORMER_KEYS.get(key, key): value for key, value in renamed.items()})


def _with_lr_scheduler(config: dict[Any, Any]) -> dict[Any, Any]:
    """Returns a configuration whose `module.warmup_steps` has become `warmup_steps` of the lr_scheduler."""
    module = config.get("module")
    if not isinstance(module, dict) or WARMUP not in module:
        return config
    node = {"_target_": "alphabar.training.optimization.lr_schedules.ConstantRate", WARMUP: module[WARMUP]}
    rest = {key: value for key, value in module.items() if key != WARMUP}
    return {**config, "lr_scheduler": node, "module": {**rest, "lr_scheduler": dict(node)}}


def _with_current_names(content: Any) -> Any:
    if isinstance(content, list):
        return [_with_current_names(item) for item in content]
    if not isinstance(content, dict):
        return content
    node = {key: _with_current_names(value) for key, value in content.items()}
    if not isinstance(node.get("_target_"), str):
        return node
    node["_target_"] = target = current_target(node["_target_"])
    renames = {old: new for (place, old), new in FORMER_ARGUMENTS.items() if target.startswith(f"{place}.")}
    return {renames.get(key, key): value for key, value in node.items()}


def current_protocol(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the protocol of a receipt with the current name of its sampler's timesteps."""
    sampler = protocol.get("sampler")
    if not isinstance(sampler, Mapping) or "grid" not in sampler:
        return dict(protocol)
    return {**protocol, "sampler": {"timesteps" if key == "grid" else key: value for key, value in sampler.items()}}
