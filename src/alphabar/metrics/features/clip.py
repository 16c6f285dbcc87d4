"""Image features of CLIP, with which CMMD is measured."""

from dataclasses import dataclass

from torch.nn import functional as F

from alphabar.metrics import Extractor, Features, Splits
from alphabar.metrics.features.pretrained import PretrainedKind, pretrained_extractor
from alphabar.models.frozen import OPENAI_CLIP

KIND = PretrainedKind(
    name="clip",
    default_model="openai/clip-vit-large-patch14-336",
    class_name="CLIPVisionModelWithProjection",
    model_types=("clip", "clip_vision_model"),
    colours=OPENAI_CLIP,
    image_size=lambda config: config.image_size,
    num_features=lambda config: config.projection_dim,
    embed=lambda output: F.normalize(output.image_embeds, dim=1),
)


@dataclass(frozen=True)
class CLIPFeatures(Features):
    """Embeddings of length one by ViT-L/14 of CLIP at 336 pixels (Radford et al. 2021), as in Jayasumana et al. 2024.

    The network is that of Hugging Face's transformers.

    weights: a local folder as `save_pretrained` writes it, or a name on the hub; None: openai/clip-vit-large-patch14-336.
    cache_dir: the folder in which results for real images are cached.
    download: whether a model of the hub is fetched if it is not in the Hugging Face cache.
    """

    weights: str | None
    cache_dir: str
    download: bool = False

    def extractors(self, splits: Splits) -> list[Extractor]:
        return [pretrained_extractor(KIND, self.weights, self.cache_dir, self.download)]
