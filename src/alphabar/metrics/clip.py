"""Features of CLIP, which CMMD is measured with."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from alphabar.metrics import Extractor, Features, Splits, pretrained
from alphabar.metrics.pretrained import Colours, Images, Kind

KIND = Kind(
    name="clip",
    usual="openai/clip-vit-large-patch14-336",
    class_name="CLIPVisionModelWithProjection",
    model_types=("clip", "clip_vision_model"),
    colours=Colours((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
)


class CLIPNetwork(nn.Module):
    """uint8 [B, 1 or 3, H, W] -> float32 [B, D], the embedding that CLIP compares with that of a text, of length one."""

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
    cache_dir: where what is computed with the features of real images is kept.
    """

    weights: str | None
    cache_dir: str

    def extractors(self, splits: Splits) -> list[Extractor]:
        return [self.extractor(splits)]

    def extractor(self, splits: Splits) -> Extractor:
        """The one that there is."""
        model, found = pretrained.pretrained(KIND, self.weights)
        images = Images(model.config.image_size, pretrained.colours(KIND, found.folder))
        network = CLIPNetwork(model, images)
        return pretrained.extractor(KIND, network, model, found, model.config.projection_dim, images, self.cache_dir)
