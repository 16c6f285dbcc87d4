"""Image features of CLIP, with which CMMD is measured."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from alphabar.metrics import Extractor, Features, Splits
from alphabar.metrics.pretrained import Images, Kind, load_pretrained, make_extractor
from alphabar.models.frozen import OPENAI_CLIP, image_colours

KIND = Kind(
    name="clip",
    usual="openai/clip-vit-large-patch14-336",
    class_name="CLIPVisionModelWithProjection",
    model_types=("clip", "clip_vision_model"),
    colours=OPENAI_CLIP,
)


class CLIPNetwork(nn.Module):
    """Maps uint8 images [B, 1 or 3, H, W] to their CLIP embeddings, unit vectors float32 [B, D]."""

    def __init__(self, model: nn.Module, images: Images) -> None:
        super().__init__()
        self.model = model
        self.images = images

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.model(self.images(images)).image_embeds, dim=1)


@dataclass(frozen=True)
class CLIPFeatures(Features):
    """ViT-L/14 of CLIP at 336 pixels (Radford et al. 2021), as in Jayasumana et al. 2024; by Hugging Face's transformers.

    weights: a local folder as `save_pretrained` writes it, or a name on the hub; None: openai/clip-vit-large-patch14-336 from the
    Hugging Face cache, downloaded if it is not there.
    cache_dir: the folder in which results for real images are cached.
    """

    weights: str | None
    cache_dir: str

    def extractors(self, splits: Splits) -> list[Extractor]:
        return [self.extractor(splits)]

    def extractor(self, splits: Splits) -> Extractor:
        """Returns the only extractor."""
        model, found = load_pretrained(KIND, self.weights)
        images = Images(model.config.image_size, image_colours(KIND.name, found.folder, KIND.colours))
        network = CLIPNetwork(model, images)
        return make_extractor(KIND, network, model, found, model.config.projection_dim, images, self.cache_dir)
