import csv
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch import Callback
from PIL import Image

import runs
import toy
from alphabar.training import posthoc
from alphabar.training.app import App
from alphabar.training.averages import gamma_of
from alphabar.training.callbacks.ema import EMA, PowerEMA, averaged, trainable
from alphabar.training.callbacks.snapshots import Snapshots
from alphabar.training.cli import execute
from alphabar.training.pictures import save_png
from alphabar.training.reports.sweep import draw
from alphabar.training.sweep import Job, Sweep


class Weights(Callback):
    """Remembers the live weights after every optimizer step."""

    def __init__(self):
        self.history = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.history.append({name: value.detach().clone() for name, value in trainable(pl_module).items()})


def fit(tmp_path, ema, *others, path=None, **arguments):
    module = toy.module()
    trainer = toy.trainer(tmp_path, [ema, *others], **arguments)
    trainer.fit(module, datamodule=toy.digits(), ckpt_path=path, weights_only=True)
    return trainer, module


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.9999])
def test_the_average_has_its_closed_form(tmp_path, decay):
    start = {name: value.detach().clone() for name, value in trainable(toy.module()).items()}
    ema, weights = EMA(decay), Weights()
    fit(tmp_path, ema, weights, max_steps=5)
    assert ema.num_updates == 5
    for name, average in ema.shadow.items():
        expected = start[name].double()
        for n, step in enumerate(weights.history, start=1):
            d = min(decay, (1 + n) / (10 + n))
            expected = d * expected + (1 - d) * step[name].double()
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-7)


def test_only_trainable_parameters_are_averaged(tmp_path):
    ema = EMA()
    _, module = fit(tmp_path, ema)
    assert ema.shadow.keys() == {name for name, _ in module.named_parameters()}
    assert not any("alpha_bar" in name or "betas" in name for name in ema.shadow)


def test_accumulated_batches_count_once(tmp_path):
    ema = EMA()
    fit(tmp_path, ema, max_steps=2, accumulate_grad_batches=2)
    assert ema.num_updates == 2


def test_weights_are_swapped_inside_and_come_back_even_from_an_exception(tmp_path):
    ema = EMA(0.5)
    trainer, module = fit(tmp_path, ema)
    live = {name: value.detach().clone() for name, value in trainable(module).items()}
    storage = {name: value.data_ptr() for name, value in trainable(module).items()}

    def look_and_fail():
        with averaged(trainer, module):
            assert all(torch.equal(value, ema.shadow[name]) for name, value in trainable(module).items())
            assert not all(torch.equal(value, live[name]) for name, value in trainable(module).items())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look_and_fail()
    assert all(torch.equal(value, live[name]) for name, value in trainable(module).items())
    assert storage == {name: value.data_ptr() for name, value in trainable(module).items()}


def test_before_the_first_update_the_average_is_the_live_weights():
    ema, module = EMA(), toy.module()
    live = {name: value.detach().clone() for name, value in trainable(module).items()}
    with ema.applied(module):
        assert all(torch.equal(value, live[name]) for name, value in trainable(module).items())


def test_checkpoints_hold_live_weights_and_averages_apart(tmp_path):
    ema = EMA(0.5)
    trainer, module = fit(tmp_path, ema)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    saved = torch.load(tmp_path / "after.ckpt", weights_only=True)
    for name, value in trainable(module).items():
        assert torch.equal(saved["state_dict"][name], value)
        assert torch.equal(saved["ema"]["weights"][name], ema.shadow[name])
    assert saved["ema"]["num_updates"] == 4


def test_an_average_goes_on_where_it_stopped(tmp_path):
    straight, first, second = EMA(0.5), EMA(0.5), EMA(0.5)
    fit(tmp_path / "a", straight, max_steps=6)
    trainer, _ = fit(tmp_path / "b", first, max_steps=3)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    trainer = toy.trainer(tmp_path / "c", [second], max_steps=6)
    trainer.fit(toy.module(), datamodule=toy.digits(), ckpt_path=tmp_path / "three.ckpt", weights_only=True)
    assert second.num_updates == 6
    assert all(torch.equal(second.shadow[name], average) for name, average in straight.shadow.items())


def test_a_bfloat16_module_has_a_float32_average():
    module, ema = toy.module().to(torch.bfloat16), EMA()
    ema.on_fit_start(None, module)
    assert {value.dtype for value in ema.shadow.values()} == {torch.float32}


def test_a_checkpoint_without_averages_is_refused_in_one_line(tmp_path):
    trainer = toy.trainer(tmp_path)
    trainer.fit(toy.module(), datamodule=toy.digits())
    trainer.save_checkpoint(tmp_path / "raw.ckpt")
    with pytest.raises(ValueError, match=r"^ema: the checkpoint has no averaged weights.*callbacks.ema=null"):
        toy.trainer(tmp_path, [EMA()], max_steps=6).fit(
            toy.module(), datamodule=toy.digits(), ckpt_path=tmp_path / "raw.ckpt", weights_only=True
        )


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"need 0 <= decay < 1, got decay="):
        EMA(decay)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.ckpt"))


def test_several_averages_are_what_each_would_be_alone(tmp_path):
    several = EMA(0.5, more_decays=[0.1, 0.9])
    fit(tmp_path / "several", several)
    for decay, average in zip((0.5, 0.1, 0.9), several.shadows.values(), strict=True):
        alone = EMA(decay)
        fit(tmp_path / str(decay), alone)
        assert equal(average, alone.shadow)
    assert equal(several.shadow, next(iter(several.shadows.values())))


@pytest.mark.parametrize("length", [0.05, 0.2])
def test_a_power_average_has_its_closed_form(tmp_path, length):
    """sum over k of ((k / t)^(gamma + 1) - ((k - 1) / t)^(gamma + 1)) * weights_k: nothing is left of the start."""
    ema, weights = PowerEMA([0.1, length]), Weights()
    fit(tmp_path, ema, weights, max_steps=6)
    shares = (torch.arange(7, dtype=torch.float64) / 6).pow(gamma_of(length) + 1).diff()
    for name, average in list(ema.shadows.values())[1].items():
        expected = sum(share * step[name].double() for share, step in zip(shares, weights.history, strict=True))
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-7)


def test_snapshots_are_written_every_so_many_steps_and_at_the_end(tmp_path):
    ema = PowerEMA([0.05, 0.1])
    fit(tmp_path, ema, Snapshots(3), max_steps=7, accumulate_grad_batches=2)
    assert files(tmp_path) == ["ema/step_0000003.ckpt", "ema/step_0000006.ckpt", "ema/step_0000007.ckpt"]
    saved = torch.load(tmp_path / "ema" / "step_0000007.ckpt", weights_only=True)["ema"]
    assert saved["num_updates"] == 7
    assert [record["sigma_rel"] for record in saved["averages"]] == [0.05, 0.1]
    assert all(equal(record["weights"], shadow) for record, shadow in zip(saved["averages"], ema.shadows.values(), strict=True))


def test_exponential_averages_have_no_snapshots(tmp_path):
    fit(tmp_path / "exponential", EMA(), Snapshots(1))
    fit(tmp_path / "none", Snapshots(1))
    assert files(tmp_path) == []


def test_a_run_that_is_taken_up_has_the_averages_and_snapshots_of_one_that_was_not_stopped(tmp_path):
    """12 steps with a snapshot every 3, and 8 steps with a checkpoint at 4 that 8 more follow: 6 and 8 are made again."""
    straight, first, second = PowerEMA([0.05, 0.1]), PowerEMA([0.05, 0.1]), PowerEMA([0.05, 0.1])
    fit(tmp_path / "a", straight, Snapshots(3), max_steps=12)
    trainer, _ = fit(tmp_path / "b", first, Snapshots(3), max_steps=4)
    trainer.save_checkpoint(tmp_path / "four.ckpt")
    for ema, max_steps in ((PowerEMA([0.05, 0.1]), 8), (second, 12)):
        trainer = toy.trainer(tmp_path / "b", [ema, Snapshots(3)], max_steps=max_steps)
        trainer.fit(toy.module(), datamodule=toy.digits(), ckpt_path=tmp_path / "four.ckpt", weights_only=True)
    assert files(tmp_path / "a") == [f"ema/step_{step:07d}.ckpt" for step in (3, 6, 9, 12)]
    assert files(tmp_path / "b") == [
        *[f"ema/step_{step:07d}.ckpt" for step in (3, 4, 6, 9, 12)],
        *[f"ema_after_step_4/step_{step:07d}.ckpt" for step in (6, 8)],
    ]
    assert all(equal(second.shadows[profile], average) for profile, average in straight.shadows.items())
    for step in (3, 6, 9, 12):
        one, other = (torch.load(posthoc.path_of(tmp_path / run, step), weights_only=True)["ema"] for run in "ab")
        for mine, its in zip(one["averages"], other["averages"], strict=True):
            assert mine["sigma_rel"] == its["sigma_rel"]
            assert equal(mine["weights"], its["weights"])


def test_a_snapshot_is_not_overwritten(tmp_path):
    path = posthoc.path_of(tmp_path, 2)
    path.parent.mkdir()
    path.write_text("mine")
    snapshots = Snapshots(2)
    snapshots.on_train_start = lambda *_: None  # which would set it aside
    fit(tmp_path, PowerEMA([0.1]), snapshots, max_steps=2)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        (EMA(0.5), EMA(0.9)),
        (EMA(0.5), EMA(0.5, [0.9])),
        (EMA(0.5), PowerEMA([0.1])),
        (PowerEMA([0.1, 0.05]), PowerEMA([0.05, 0.1])),
    ],
)
def test_averages_do_not_go_on_as_others(tmp_path, saved, resumed):
    trainer, _ = fit(tmp_path, saved, max_steps=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(
        ValueError, match=r"^ema: the checkpoint has averages with .*, they cannot go on with .*callbacks.ema=null$"
    ):
        fit(tmp_path, resumed, max_steps=2, path=tmp_path / "one.ckpt")


def test_a_checkpoint_from_when_there_was_one_average_goes_on(tmp_path):
    trainer, _ = fit(tmp_path, EMA(0.5), max_steps=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)
    del saved["ema"]["averages"]
    torch.save(saved, tmp_path / "two.ckpt")
    straight, resumed = EMA(0.5), EMA(0.5)
    fit(tmp_path, straight, max_steps=4)
    fit(tmp_path, resumed, max_steps=4, path=tmp_path / "two.ckpt")
    assert equal(straight.shadow, resumed.shadow)
    with pytest.raises(ValueError, match=r"^ema: the checkpoint has averages with a decay, they cannot go on with sigma_rel=0.1; "):
        fit(tmp_path, PowerEMA([0.1]), max_steps=4, path=tmp_path / "two.ckpt")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: EMA(0.9, [0.99, 0.9]), "need different decays, got 0.9, 0.99, 0.9"),
        (lambda: EMA(0.9, [1.5]), "need 0 <= decay < 1, got decay=1.5"),
        (lambda: PowerEMA([]), "need lengths, such as lengths=[0.05, 0.1], got none"),
        (lambda: PowerEMA([0.1, 0.1]), "need different lengths, got 0.1, 0.1"),
        (lambda: PowerEMA([0.3]), "need 0 < length <= 0.28868, that of the plain mean, got 0.3"),
        (lambda: Snapshots(0), "need every_n_steps >= 1, got every_n_steps=0"),
    ],
)
def test_what_cannot_be_averaged_is_refused(make, complaint):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == complaint


def test_a_real_run_has_the_averages_that_are_reconstructed(tmp_path):
    """100 steps, a snapshot of 0.05 and 0.1 every 4; a miss is over the distance of the true average from the live weights."""
    bounds = {0.03: 0.05, 0.07: 0.01, 0.15: 0.01, 0.2: 0.02}
    ema = PowerEMA([0.05, 0.1, *bounds])
    _, module = fit(tmp_path, ema, Snapshots(4), max_steps=100)
    contents = [torch.load(path, weights_only=True) for path in posthoc.snapshots(tmp_path).values()]
    kept = [average for content in contents for average in posthoc.kept_in(content) if average.length not in bounds]
    live = {name: weight.detach() for name, weight in trainable(module).items()}
    for (length, largest), true in zip(bounds.items(), list(ema.shadows.values())[2:], strict=True):
        made = posthoc.reconstructed(kept, length, 100)
        miss, distance = (sum(float((one[name] - true[name]).square().sum()) for name in true) for one in (made, live))
        assert (miss / distance) ** 0.5 < largest


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of 40 steps with snapshots every 4, and, beside it, that of one with two exponential averages."""
    folder = tmp_path_factory.mktemp("runs")
    common = (
        "trainer.max_steps=40",
        "callbacks.fid=null",
        "callbacks.film=null",
        "callbacks.curves=null",
        "callbacks.snapshots.every_n_steps=4",
    )
    for name, words in {"power": ["ema=power"], "several": ["ema.decay=0.9", "ema.more_decays=[0.5]"]}.items():
        code, err = command("train", *runs.words(*common, *words, folder=folder / name))
        assert code == 0, err
    return folder


def command(script, *words):
    """(Exit code, what it complained of) of a command that is run in this process."""
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script}.py", *map(str, words)])
        lines: list[str] = []
        patch.setattr("alphabar.training.endings.say", lambda ending: lines.extend(ending.lines))
        return execute(importlib.import_module(script).main.__wrapped__, App(runs.ROOT / "conf", script)), lines


def test_a_run_of_the_command_line_has_its_snapshots(trained):
    assert files(trained / "power" / "ema") == [f"step_{step:07d}.ckpt" for step in range(4, 41, 4)]
    assert not (trained / "several" / "ema").exists()


@pytest.mark.parametrize(
    ("run", "words", "chosen"),
    [
        (
            "power",
            ["ema_length=0.15"],
            lambda folder: posthoc.of_length(runs.checkpoint(folder), folder / "checkpoints" / "last.ckpt", 0.15),
        ),
        ("power", ["ema_length=0.1"], lambda folder: runs.checkpoint(folder)["ema"]["averages"][1]["weights"]),
        ("several", ["ema_decay=0.5"], lambda folder: runs.checkpoint(folder)["ema"]["averages"][1]["weights"]),
    ],
    ids=["length", "length that was kept", "decay"],
)
def test_images_are_those_of_the_average_that_was_asked_for(trained, tmp_path, run, words, chosen):
    saved = runs.checkpoint(trained / run)
    saved["ema"]["weights"] = chosen(trained / run)
    torch.save(saved, tmp_path / "replaced.ckpt")
    common = ("num=4", "sampler.num_steps=3", "film=0", "accelerator=cpu")
    given = {
        "asked": [f"checkpoint={trained / run}/checkpoints/last.ckpt", *words],
        "made": [f"checkpoint={tmp_path}/replaced.ckpt"],
    }
    given["used"] = [f"checkpoint={trained / run}/checkpoints/last.ckpt"]
    for name, which in given.items():
        code, err = command("sample", *common, *which, f"hydra.run.dir={tmp_path / name}")
        assert code == 0, err
    asked, made, used = ((tmp_path / name / "grid.png").read_bytes() for name in given)
    assert asked == made
    assert asked != used


def test_fid_over_the_length_is_a_sweep(trained, tmp_path):
    words = ("num=20", "batch_size=20", "sampler.num_steps=2", "features.max_images=200", f"features.cache_dir={runs.CACHE}")
    checkpoint = trained / "power" / "checkpoints" / "last.ckpt"
    code, _, err = runs.run(
        "evaluate.py",
        "-m",
        f"checkpoint={checkpoint}",
        "ema_length=0.05,0.15",
        *words,
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        cwd=tmp_path,
    )
    assert code == 0, err
    with (tmp_path / "sweep" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["ema_length"], row["fid_name"]) for row in rows} == {
        (length, f"fid/n20-classifier-ema{length}-ddim2") for length in ("0.05", "0.15")
    }
    for row in rows:
        receipt = json.loads((Path(row["folder"]) / "figures.json").read_text())
        assert receipt["weights"] == f"ema{row['ema_length']}"
        assert float(row["fid"]) == pytest.approx(receipt["figures"][row["fid_name"]])
    assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 5000


def test_a_sweep_over_lengths_is_one_protocol_and_needs_no_samples(tmp_path):
    def job(num, name):
        return Job(
            num, {"ema_length": str(num)}, tmp_path / str(num), "finished", result={"fid": {"name": name, "value": 2.0 + num}}
        )

    sweep = Sweep(tmp_path, [job(num, f"fid/n20-classifier-ema0.{num}-ddim2") for num in range(1, 5)])
    assert sweep.fid_names() == ["fid/n20-classifier-*-ddim2"]
    assert sweep.report().endswith("FID is fid/n20-classifier-*-ddim2")
    draw(sweep, tmp_path / "without.png")
    for one in sweep.jobs:
        save_png(torch.zeros(1, 8, 8, dtype=torch.uint8), one.folder / "samples" / "step_1.png")
    draw(sweep, tmp_path / "with.png")
    with Image.open(tmp_path / "without.png") as without, Image.open(tmp_path / "with.png") as tiled:
        assert without.height == 440  # of the plot alone
        assert tiled.height > 500
    sweep.jobs = sweep.jobs[:3]
    assert len(sweep.fid_names()) == 3
    sweep.jobs = [*sweep.jobs, job(4, "fid/n20-toy")]
    assert len(sweep.fid_names()) == 4


@pytest.mark.parametrize(
    ("run", "words", "complaint"),
    [
        (
            "power",
            ["ema_length=0.1", "weights=raw"],
            "task: ema_length=0.1: need weights=ema, got weights=raw, which are not averaged",
        ),
        ("power", ["ema_length=0.1", "ema_decay=0.9"], "task: need ema_length or ema_decay, got ema_length=0.1 ema_decay=0.9"),
        ("power", ["ema_length=0.5"], "task: need 0 < ema_length <= 0.28868, that of the plain mean, got ema_length=0.5"),
        ("power", ["ema_length=0"], "task: need 0 < ema_length <= 0.28868, that of the plain mean, got ema_length=0"),
        ("power", ["ema_length=long"], "ema_length: expected float or null, got 'long'"),
        (
            "power",
            ["ema_length=0.001"],
            "ema_length=0.001: need a length within reach of the 20 averages that the run kept up to step 40: 0.0",
        ),
        ("power", ["ema_decay=0.9"], "ema_decay=0.9: the checkpoint has no exponential average; train with ema.more_decays=[0.9]"),
        (
            "several",
            ["ema_decay=0.7"],
            "ema_decay=0.7: the checkpoint has the exponential averages with 0.9, 0.5; train with ema.more_decays=[0.7]",
        ),
        (
            "several",
            ["ema_length=0.1"],
            "ema_length=0.1: the checkpoint has no power-function averages to make it from; train with ema=power",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_average_that_is_not_there_is_one_line(trained, tmp_path, run, words, complaint):
    code, lines = command(
        "sample", f"checkpoint={trained / run}/checkpoints/last.ckpt", *words, f"hydra.run.dir={tmp_path / 'out'}"
    )
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(complaint)
    assert not (tmp_path / "out").exists()


def test_snapshots_that_cannot_be_used_are_one_line(trained, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes((trained / "power" / "checkpoints" / "last.ckpt").read_bytes())
    words = (f"checkpoint={checkpoint}", "ema_length=0.15", f"hydra.run.dir={tmp_path / 'out'}")
    (line,) = command("sample", *words)[1]
    assert line == f"ema_length=0.15: there are no snapshots before step 40 in {tmp_path / 'ema'} to make it from"
    (tmp_path / "ema").mkdir()
    path = posthoc.path_of(tmp_path, 20)
    path.write_bytes(b"half a file")
    (line,) = command("sample", *words)[1]
    assert line.startswith(f"ema_length=0.15: {path}: cannot be read")
    torch.save({"ema": {"num_updates": 20, "averages": [{"sigma_rel": 0.05, "weights": {"other": torch.zeros(1)}}]}}, path)
    (line,) = command("sample", *words)[1]
    assert line == f"ema_length=0.15: the averages in {tmp_path / 'ema'} are of another network"
    torch.save({"nothing": 1}, path)
    (line,) = command("sample", *words)[1]
    assert line == f"ema_length=0.15: {path}: not a snapshot of averages"
