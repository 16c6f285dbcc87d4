"""alphabar: diffusion models as experiments you can run, change and compare.

Reading order: `alphabar.diffusion` (the maths, torch only), `alphabar.models` (networks and codecs),
`alphabar.training` (Lightning and Hydra).
"""

__version__ = "0.1.0"
