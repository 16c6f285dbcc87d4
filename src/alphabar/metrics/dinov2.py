"""Features of DINOv2, whose distances agree better with human judgement than those of Inception."""

from dataclasses import dataclass

from torch import Tensor, nn

from alphabar.metrics import Extractor, Features, Splits
from alphabar.metrics.pretrained import Images, Kind, load_pretrained, make_extractor
from alphabar.models.frozen import Colours, image_colours

SIZE = 224
KIND = Kind(
    name="dinov2",
    usual="facebook/dinov2-large",
    class_name="Dinov2Model",
    model_types=("dinov2",),
    colours=Colours((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)


class DINOv2Network(nn.Module):
    """Maps uint8 images [B, 1 or 3, H, W] to the class token after the last normalisation, float32 [B, D]."""

    def __init__(self, model: nn.Module, images: Images) -> None:
        super().__init__()
        self.model = model
        self.images = images

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.images(images)).pooler_output


@dataclass(frozen=True)
class DINOv2Features(Features):
    """ViT-L/14 of DINOv2 (Oquab et al. 2023), for Frechet distances as in Stein et al. 2023; by Hugging Face's transformers.

    weights: a local folder as `save_pretrained` writes it, or a name on the hub; None: facebook/dinov2-large from the Hugging Face
    cache, downloaded if it is not there.
    cache_dir: the folder in which results for real images are cached.
    """

    weights: str | None
    cache_dir: str

    def extractors(self, splits: Splits) -> list[Extractor]:
        return [self.extractor(splits)]

    def extractor(self, splits: Splits) -> Extractor:
        """Returns the only extractor."""
        model, found = load_pretrained(KIND, self.weights)
        images = Images(SIZE, image_colours(KIND.name, found.folder, KIND.colours))
        network = DINOv2Network(model, images)
        return make_extractor(KIND, network, model, found, model.config.hidden_size, images, self.cache_dir)
