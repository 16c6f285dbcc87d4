"""Folders of runs and sweeps made by hand, and a parser of their pages."""

import csv
import re
from html.parser import HTMLParser

import torch

from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.thresholdings import Static
from alphabar.evaluation.receipt import Figure, Receipt, write_receipt
from alphabar.reports.report import report_command
from alphabar.sampling.image_grid import grid, save_gif, save_png

VOID = {"meta", "img", "input", "link", "br", "hr"}
SVG = {"line", "path", "use", "g", "text", "svg"}
EVIL = '<script>alert("1")</script>&\'"'
CONFIG = """\
schedule:
  _target_: alphabar.diffusion.schedules.linear.LinearSchedule
  num_steps: 1000
parameterization:
  _target_: alphabar.diffusion.parameterizations.Epsilon
objective:
  _target_: alphabar.diffusion.objectives.denoising.Denoising
  weighting:
    _target_: alphabar.diffusion.objectives.weightings.MinSNR
sampler:
  _target_: alphabar.diffusion.samplers.ddim.DDIM
  num_steps: 50
network:
  _target_: alphabar.models.networks.unet.UNet
  channel_multipliers: [1, 2]
data:
  _target_: alphabar.data.sources.digits.Digits
shape: {channels: 1, resolution: 8}
seed: 0
"""


class Page(HTMLParser):
    """A parsed page. Fails for tags that are not closed in order, and for an id that is there twice."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(content)
        self.close()
        assert self.open == []
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SVG
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def links(self):
        return [
            attributes[name] for _, attributes in self.tags for name in ("src", "href", "srcset", "action") if name in attributes
        ]


def make_grid(path, num=4):
    save_png(grid(torch.randint(200, (num, 1, 8, 8), dtype=torch.uint8)), path)


def make_run(folder, num_grids=3, name="null"):
    folder.mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "config.yaml").write_text(CONFIG + f"name: {name}\n")
    rows = [
        {"step": step, "train/loss": 1 / (step + 1), "train/loss_level_0.00_0.50": 0.2, "train/images": step * 64}
        for step in range(100)
    ]
    rows[0] |= {"fid/floor-n100-classifier": 0.5, "held_out/loss": 1.5}
    rows[50] |= {
        "fid/n100-classifier-ema-ddim50": 2.5,
        "held_out/loss": 0.5,
        "held_out/loss_ema": 0.4,
        "held_out/loss_ema_snr_1e2_inf": 0.3,
    }
    rows[99] |= {
        "fid/n100-classifier-ema-ddim50": 1.25,
        "held_out/loss_ema": 0.35,
        "train/seconds": 75.0,
        "health/diversity": 0.3,
        "health/news": 1.0,
        "samples/num_nonfinite": 2,
    }
    columns = dict.fromkeys(name for row in rows for name in row)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    for index in range(num_grids):
        make_grid(folder / "samples" / f"step_{index * 10:07d}.png")
    frames = list(torch.randint(256, (4, 1, 16, 16), dtype=torch.uint8))
    save_gif(frames, folder / "film.gif")
    make_grid(folder / "film.png")
    return folder


def make_receipt(folder, checkpoint, num=100, steps=50, values=(1.0, 2.0), complaints=()):
    folder.mkdir(parents=True)
    label = f"n{num}-classifier-ema-ddim{steps}"
    figures = (
        Figure(f"fid/{label}", "fid", "classifier", values, 0.5),
        Figure(f"inception_score_std/{label}", "inception_score_std", "classifier", values),
        Figure(f"fid/n{num}-classifier-noise", "fid", "classifier", (31.0,)),
    )
    protocol = {
        "num": num,
        "seeds": list(range(len(values))),
        "reference": {"split": "training", "num": 797, "content": "c0ffee"},
        "floor": {"split": "held-out", "num": 1000, "content": "beef"},
        "weights": "ema",
        "sampler": DDIM(num_steps=steps, thresholding=Static()),
    }
    memorisation = {"share": 0.4, "num": 100, "num_held_out": 90, "median": 1.0, "median_held_out": 2.0, "is_flagged": True}
    findings = {"complaints": list(complaints), "memorisation": memorisation}
    run = {"when": "2026-11-25", "command": ["a", "b"], "code": "1859fbf", "hardware": "1 x cpu", "seconds": 8.0}
    costs = {"network_evaluations": float(steps), "seconds_per_image": 0.01}
    subject = {"checkpoint": str(checkpoint), "sha256": "00", "step": 99}
    make_grid(folder / "memorisation.png")
    return write_receipt(Receipt(figures, protocol, subject, findings, run | costs), folder)


def make_sweep(folder, names=("fid/n100-classifier-ema-ddim50", "fid/n100-classifier-ema-heun18")):
    folder.mkdir(parents=True)
    lines = ["job,lr,state,error,loss,fid,fid_name,images_per_second,seconds,folder"]
    for index, name in enumerate(names):
        make_run(folder / str(index))
        lines.append(f"{index},{10.0**-index},finished,,0.1,{index + 1.5},{name},700,12.0,/elsewhere/{folder.name}/{index}")
    lines.append(f'9,{EVIL.replace(",", "").replace(chr(34), "")},failed,"no {EVIL.replace(chr(34), "")}",,,,,1.0,/elsewhere/9')
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    make_grid(folder / "sweep.png")
    return folder


def report(folder, *words):
    path = report_command([str(folder), *map(str, words)]).split()[-1]
    content = (folder / "report.html").read_text()
    assert path.endswith("report.html")
    page = Page(content)
    assert all(re.match("data:image/(png|gif|jpeg);base64,|#", link) for link in page.links())
    assert all(image["alt"] for image in page.all("img"))
    assert "url(" not in content
    assert "@import" not in content
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    return page
