"""The recipes by the names that `equal_time.py` knows them by."""

from recipes import Recipe
from recipes.denoising_diffusion import DenoisingDiffusion, unet_of_our_width, unet_of_readme
from recipes.ours import Ours
from recipes.train_unconditional import TrainUnconditional, our_unet, unet_of_cifar10

RECIPES: dict[str, Recipe] = {
    "alphabar": Ours(),
    "denoising_diffusion": DenoisingDiffusion(unet_of_readme, takes_our_network=False),
    "denoising_diffusion_small": DenoisingDiffusion(unet_of_our_width, takes_our_network=True),
    "diffusers": TrainUnconditional(unet_of_cifar10, takes_our_network=False),
    "diffusers_small": TrainUnconditional(our_unet, takes_our_network=True),
}
