import subprocess
import sys

import runs

ABOVE = ("lightning", "hydra", "omegaconf", "torchmetrics", "torchvision", "wandb", "sklearn", "matplotlib", "diffusers")


def loaded_by(statement):
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=runs.ROOT)
    return set(done.stdout.split())


def test_the_maths_needs_torch_alone():
    modules = [
        ".".join(path.relative_to(runs.ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in (runs.ROOT / "src" / "alphabar" / "diffusion").rglob("*.py")
    ]
    assert len(modules) > 10
    assert loaded_by(f"import {', '.join(modules)}").isdisjoint(ABOVE)


def test_networks_need_neither_lightning_nor_hydra():
    loaded = loaded_by("import alphabar.models.networks.unet, alphabar.models.networks.diffusers, alphabar.models.codecs.pixels")
    assert loaded.isdisjoint(ABOVE)


def test_files_are_rooms_one_can_know():
    sizes = {path: len(path.read_text().splitlines()) for path in (runs.ROOT / "src").rglob("*.py")}
    assert max(sizes.values()) <= 300
    assert sorted(sizes.values())[len(sizes) // 2] <= 120
    assert all(len((runs.ROOT / f"{name}.py").read_text().splitlines()) <= 60 for name in ("train", "sample", "evaluate"))
