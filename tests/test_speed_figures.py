"""What a run says of its speed: FLOPs, the peak of a device, MFU, memory, waiting and evaluation."""

import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import runs
import toy
from alphabar.runs.run_speed import RunSpeed, run_speed
from alphabar.training import flops
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.callbacks.speed_figures import SpeedFigures
from alphabar.training.callbacks.training_log import TrainingLog
from alphabar.training.flops import compute_dtype, count_flops, format_flops, measured_rate, peak_rate, published_rate
from alphabar.training.hooks import evaluation
from pages import Page

CPU = torch.device("cpu")


def test_flops_of_a_step_are_those_of_its_products_and_convolutions():
    linear, conv = nn.Linear(6, 5, bias=False), nn.Conv2d(3, 4, 3, padding=1, bias=False)
    x, image = torch.randn(7, 6, requires_grad=True), torch.randn(2, 3, 8, 8)
    assert count_flops(lambda: linear(x)) == 2 * 7 * 6 * 5
    assert count_flops(lambda: linear(x).sum().backward()) == 3 * 2 * 7 * 6 * 5
    forward = 2 * 2 * 8 * 8 * 3 * 3 * 3 * 4
    assert count_flops(lambda: conv(image).sum().backward()) == 2 * forward  # the image needs no gradient


def test_fused_attention_is_counted_on_cpus():
    q = torch.randn(2, 3, 16, 8, requires_grad=True)
    forward = 2 * 2 * (2 * 3 * 16 * 16 * 8)
    assert count_flops(lambda: F.scaled_dot_product_attention(q, q, q)) == forward
    assert count_flops(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward()) > 2 * forward


def test_what_cannot_be_counted_is_none():
    def fail():
        raise RuntimeError("as if the counter did not know it")

    assert count_flops(fail) is None
    assert count_flops(lambda: torch.ones(3) + 1) is None


@pytest.mark.parametrize(
    ("name", "dtype", "tf32", "tflops"),
    [
        ("NVIDIA H200", torch.bfloat16, False, 989),
        ("NVIDIA H200 NVL", torch.bfloat16, False, 835),
        ("NVIDIA GH200 480GB", torch.bfloat16, False, None),
        ("NVIDIA H100 80GB HBM3", torch.float32, True, 495),
        ("NVIDIA A100-SXM4-80GB", torch.float32, False, 19.5),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", torch.float32, False, None),
        ("NVIDIA L4", torch.float16, False, 121),
        ("NVIDIA L40", torch.float16, False, None),
        ("Tesla T4", torch.float16, False, 65),
        ("Tesla T4", torch.bfloat16, False, None),
        ("Tesla V100-SXM2-16GB", torch.float32, True, 15.7),
        ("NVIDIA T400", torch.float32, False, None),
        ("NVIDIA GeForce RTX 4090", torch.bfloat16, False, 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", torch.bfloat16, False, None),
        ("NVIDIA H200", torch.float64, False, None),
    ],
)
def test_the_peak_of_a_gpu_is_that_of_its_maker_if_it_is_known(name, dtype, tf32, tflops):
    found = published_rate(name, dtype, tf32)
    assert (found and found.flops) == (None if tflops is None else pytest.approx(tflops * 1e12))


def test_the_peak_of_a_processor_is_measured_once(monkeypatch):
    found = peak_rate(CPU, torch.float32)
    assert found.is_measured
    assert found.flops > 1e8
    monkeypatch.setattr(flops, "matmul_seconds", None)
    assert peak_rate(CPU, torch.float32) is found
    monkeypatch.setattr(flops, "matmul_seconds", lambda size, device, dtype: 1e-4 * size / 512)
    monkeypatch.setattr(flops, "conv_seconds", lambda size, device, dtype: 1e-3)
    wide = measured_rate.__wrapped__(CPU, torch.float32)
    assert str(wide) == "1.1 PFLOP/s in float32 (measured)"  # products of 8192 rows, the largest that are tried


def test_float32_is_tf32_unless_that_is_off():
    assert flops.uses_tf32()  # the default of convolutions
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert not flops.uses_tf32()


def test_numbers_of_flops_are_said_as_people_do():
    assert [format_flops(number) for number in (97.2e6, 5.12e9, 0.6e9, 495e12)] == [
        "97.2 MFLOP",
        "5.12 GFLOP",
        "0.6 GFLOP",
        "495 TFLOP",
    ]


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_the_peak_is_that_of_the_precision_of_the_run(tmp_path, precision, dtype):
    assert compute_dtype(toy.trainer(tmp_path, precision=precision)) == dtype


class Evaluates(Recurring):
    def act(self, trainer, pl_module, is_last):
        with evaluation(trainer, pl_module):
            time.sleep(0.3)


def fit(folder, figures, max_steps, checkpoint=None, seconds=0.05):
    """Trains with a loader that takes `seconds` for a batch and an evaluation of 0.3 s after every other step."""
    data = toy.digits()
    trainer = toy.trainer(folder, [TrainingLog(), Evaluates(2), figures], max_steps=max_steps)
    prepare = data.train_dataloader

    def slow():
        loader = prepare()
        batch = loader.source.batch

        class Slow:
            def batch(self, places):
                time.sleep(seconds)
                return batch(places)

        loader.source = Slow()
        return loader

    data.train_dataloader = slow
    module = toy.module()
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / "saved.ckpt")
    return module.figures


def test_waiting_and_evaluation_are_shares_of_the_time_and_resumed_runs_go_on_counting(tmp_path):
    figures, resumed = SpeedFigures(), SpeedFigures()
    first = fit(tmp_path, figures, 4)
    assert figures.totals["waiting"] >= 4 * 0.05
    assert figures.totals["evaluating"] >= 2 * 0.3  # the one after the last step, too
    assert figures.totals["seconds"] > figures.totals["waiting"] + figures.totals["evaluating"]
    assert 0 < first["train/waiting_for_data"] < 1
    assert first["train/evaluating"] == pytest.approx(figures.totals["evaluating"] / figures.totals["seconds"])
    assert first["train/peak_memory_mb"] > 10
    assert "train/mfu" not in first  # nothing has counted FLOPs
    fit(tmp_path, resumed, 6, tmp_path / "saved.ckpt")
    for name, least in (("waiting", 2 * 0.05), ("evaluating", 0.3)):
        assert resumed.totals[name] >= figures.totals[name] + least


@pytest.mark.parametrize("accumulated", [1, 2])
def test_mfu_is_of_the_peak_of_all_images_of_a_step(command, tmp_path, monkeypatch, accumulated):
    monkeypatch.setattr(
        "alphabar.training.callbacks.speed_figures.peak_rate", lambda device, dtype: flops.PeakRate(1e15, "x", True)
    )
    words = ("trainer.max_steps=4", f"trainer.accumulate_grad_batches={accumulated}", "trainer.log_every_n_steps=2", "report=true")
    code, out, err = command("train", *runs.words(*runs.BRIEF[1:], *words, folder="out"))
    assert code == 0, err
    rows = runs.table(tmp_path / "out" / "metrics.csv")
    shares = [float(row["train/mfu"]) / float(row["train/images_per_second"]) for row in rows if row["train/mfu"]]
    assert len(shares) == 2
    per_image = shares[0] * 1e15
    assert shares[1] == pytest.approx(shares[0], rel=1e-4)
    assert f"compute    {format_flops(per_image)} an image, MFU " in out
    (line,) = [line for line in out.splitlines() if line.startswith("  throughput ")]
    assert all(words in line for words in ("images/s in training, MFU ", "waiting for data", "in evaluation", "peak memory"))
    text = Page((tmp_path / "out" / "report.html").read_text()).text
    figures = line.removeprefix("  throughput   ").split(", ")
    assert [figure in text for figure in figures] == ["in evaluation" not in figure for figure in figures]


def test_a_network_that_cannot_be_counted_trains_without_mfu(command, tmp_path, monkeypatch):
    def refuse(self, func, types, args=(), kwargs=None):
        raise NotImplementedError("as for an operation that the counter does not take")

    monkeypatch.setattr("torch.utils.flop_counter._FlopCounterMode.__torch_dispatch__", refuse)
    code, out, err = command("train", *runs.words(*runs.BRIEF, folder="out"))
    assert (code, err) == (0, "")
    assert "compute" not in out
    assert "MFU" not in out
    (last,) = runs.table(tmp_path / "out" / "metrics.csv")[-1:]
    assert "train/mfu" not in last
    assert float(last["train/peak_memory_mb"]) > 0


def test_the_speed_of_a_run_is_that_of_all_its_steps():
    figures = {"train/images": 1000.0, "train/seconds": 10.0, "train/images_per_second": 200.0, "train/mfu": 0.5}
    speed = run_speed(figures.get)
    assert speed == RunSpeed(100.0, 0.25, None, None, None)
    assert speed.line() == "100 images/s in training, MFU 25%"
    assert speed._replace(images_per_second=10_512.3, mfu=0.0049).line() == "10,512 images/s in training, MFU 0.49%"
    assert run_speed({}.get).line() == run_speed({}.get).advice() == ""


@pytest.mark.parametrize(
    ("waiting", "evaluating", "words"),
    [(0.02, 0.4, ()), (0.2, 0.4, ("data.num_workers",)), (0.0, 0.6, ("every_n_steps",)), (0.5, 0.6, ("data.resident", "num"))],
)
def test_advice_follows_from_large_shares(waiting, evaluating, words):
    advice = RunSpeed(100.0, 0.005, 900.0, waiting, evaluating).advice()
    assert all(word in advice for word in words)
    assert bool(advice) == bool(words)
