"""Image features of CLIP, with which CMMD is measured."""

from torch.nn import functional as F

from alphabar.metrics.features.pretrained import PretrainedFeatures, PretrainedKind
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


class CLIPFeatures(PretrainedFeatures):
    """Embeddings of length one by ViT-L/14 of CLIP at 336 pixels (Radford et al. 2021), as in Jayasumana et al. 2024."""

    @property
    def kind(self) -> PretrainedKind:
        return KIND
