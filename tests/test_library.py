"""The functions of a notebook: `alphabar.train`, `alphabar.load` and what they return."""

import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import alphabar
import documents
import runs
from alphabar.runs.run_speed import CLOCKED
from alphabar.training.modules.diffusion import DiffusionModule

BRIEF = [*runs.words(*runs.BRIEF)]
CLASSES = ("conditioner=class_label", "guidance=classifier_free", "trainer.max_steps=20")  # as in test_class_conditioning.py


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model():
    return alphabar.load(str(runs.trained(*CLASSES)), device="cpu")


def test_the_package_alone_loads_nothing_and_names_everything():
    code = "import sys, alphabar; print(len([name for name in sys.modules if name.startswith(('torch', 'hydra', 'alphabar.'))]), *dir(alphabar))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    num, *names = done.stdout.split()
    assert num == "0"
    assert set(alphabar.__all__) <= set(names)
    assert all(getattr(alphabar, name) is not None for name in alphabar.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = alphabar.trian


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, []),
        (
            {"labels": [3, 5], "sampler": "dpmpp_2m", "num_steps": 4, "guidance": 2.5, "seed": 7, "first": 3, "batch_size": 4},
            ["labels=[3,5]", "sampler=dpmpp_2m", "sampler.num_steps=4", "guidance=classifier_free", "guidance.weight=2.5", "seed=7", "first=3", "batch_size=4"],
        ),
        ({"labels": "all", "guidance": "apg", "num_steps": 3, "resolution": [8, 16]}, ["labels=all", "guidance=apg", "sampler.num_steps=3", "resolution=[8,16]"]),
    ],
)  # fmt: skip
def test_samples_are_those_of_the_command(model, command, settings, words):
    checkpoint = model.pipeline.settings.checkpoint
    code, _, err = command(
        "sample", f"checkpoint={checkpoint}", "num=6", "format=npz", "film=0", "accelerator=cpu", "hydra.run.dir=out", *words
    )
    assert code == 0, err
    drawn = torch.from_numpy(np.load("out/images.npz")["images"]).permute(0, 3, 1, 2)
    assert model.sample(num=6, **settings).equal(drawn)


def test_numbers_and_lists_may_be_arrays(model):
    settings = {"num_steps": 2, "seed": 3}
    expected = model.sample(2, labels=[3, 5], **settings)
    for labels in (np.array([3, 5]), torch.tensor([3, 5]), (3, 5)):
        assert model.sample(np.int64(2), labels=labels, **settings).equal(expected)


def test_a_sampler_may_be_an_object(model):
    sampler = alphabar.DPMpp2M(num_steps=9)
    assert model.sample(num=2, sampler=sampler, num_steps=3).equal(model.sample(num=2, sampler=alphabar.DPMpp2M(num_steps=3)))


def test_the_weights_that_are_loaded_are_those_asked_for(model):
    raw = alphabar.load(model.pipeline.settings.checkpoint, weights="raw", device="cpu")
    state = torch.load(model.pipeline.settings.checkpoint, weights_only=True)
    name = "denoiser.network.conv_out.weight"
    assert raw.denoiser.network.conv_out.weight.equal(state["state_dict"][name])
    assert model.denoiser.network.conv_out.weight.equal(state["ema"]["weights"][name])
    assert "raw weights of step 20, images 1x8x8, on cpu" in repr(raw)
    assert raw.config["seed"] == 0
    assert raw.step == 20
    assert list(raw.classes) == [str(digit) for digit in range(10)]


def test_the_likelihood_is_the_figure_of_the_command(command):
    folder = runs.trained("trainer.max_steps=20")
    words = ("metric=bpd", "num=6", "batch_size=4", "bpd_steps=4", "accelerator=cpu", "hydra.run.dir=out")
    code, _, err = command("evaluate", f"checkpoint={folder}", *words)
    assert code == 0, err
    model = alphabar.load(folder, device="cpu")
    from alphabar.config.build import build

    data = build(model.pipeline.loaded.config.data, "data")
    data.prepare_data()
    images = data.held_out_set.images(torch.arange(6))
    (figure,) = [value for name, value in runs.figures("out").items() if "ode" in name]
    bits = model.bits_per_dimension(images, num_steps=4, batch_size=4)
    assert bits.shape == (6,)
    assert float(bits.mean()) == figure
    nats = model.log_likelihood(images, num_steps=4, batch_size=4)
    assert nats.equal(-bits * 64 * np.log(2))


def test_training_twice_in_one_process_is_training_by_the_command(here, command):
    code, _, err = command("train", *BRIEF, "hydra.run.dir=by_command")
    assert code == 0, err
    first, second = alphabar.train(BRIEF), alphabar.train(BRIEF)
    assert first.folder != second.folder
    assert first.folder.parent == here / "outputs" / "train"
    expected = runs.checkpoint("by_command")["state_dict"]
    for run in (first, second):
        state = runs.checkpoint(run.folder)["state_dict"]
        assert all(state[name].equal(weight) for name, weight in expected.items())
    one, two = ({name: value for name, value in run.figures.items() if name not in CLOCKED} for run in (first, second))
    assert one == two
    assert first.metrics[-1]["step"] == 2
    assert first.samples is None
    assert first.report is None
    assert first.config["seed"] == 0
    assert first.model(device="cpu").step == 2
    assert "train.py" in (first.folder / "receipt.json").read_text()


def test_training_leaves_the_process_as_it_was(here, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def state():
        loggers = [
            logging.getLogger(name) for name in ("", "alphabar", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero")
        ]
        return (
            os.getcwd(),
            list(sys.argv),
            sys.excepthook,
            warnings.formatwarning,
            warnings.filters[:],
            [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers],
            GlobalHydra.instance().hydra,
            HydraConfig.instance().cfg,
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
            dict(os.environ),
        )

    before = state()
    run = alphabar.train(BRIEF)
    assert state() == before
    code = "import sys; from alphabar.runs.folders.run_dir import lock; from pathlib import Path; lock(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, run.folder], check=True)  # another process may go on with it


def interrupting(monkeypatch, num_signals):
    """Lets a user press Ctrl-C in the second step."""
    step = DiffusionModule.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == 1:
            for _ in range(num_signals):
                signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "training_step", training_step)


def test_an_interrupt_stops_after_the_step_with_a_checkpoint(here, monkeypatch):
    with monkeypatch.context() as patch:
        interrupting(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            alphabar.train([*BRIEF, "trainer.max_steps=4", "hydra.run.dir=run"])
    assert runs.checkpoint("run")["global_step"] == 2
    resumed, uncut = alphabar.train(["resume=run"]), alphabar.train([*BRIEF, "trainer.max_steps=4"])
    states = [runs.checkpoint(run.folder)["state_dict"] for run in (resumed, uncut)]
    assert all(states[0][name].equal(weight) for name, weight in states[1].items())
    assert resumed.folder == here / "run"


def test_a_second_interrupt_stops_at_once_and_not_the_process(here, monkeypatch):
    interrupting(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        alphabar.train([*BRIEF, "trainer.max_steps=4", "hydra.run.dir=run"])
    assert not Path("run/checkpoints/last.ckpt").exists()


BAD_TRAINING = [
    (["schedul=cosine"], "Did you mean schedule"),
    (["schedule=cosin"], "schedule=cosin: no such choice"),
    (["trainer.max_steps=many"], "trainer.max_steps"),
    (["+schedule.nonsense=1"], "schedule: LinearSchedule has no argument 'nonsense'"),
    ([*BRIEF, "trainer.devices=2", "trainer.accelerator=cpu"], "2 processes are for python train.py; here need trainer.devices=1"),
    (["-m", "seed=0,1"], "-m: is for the command line"),
    (["resume=nowhere"], "there is no such folder"),
    ("schedule=cosine", "overrides: need a list"),
    ([3], "overrides: need a list of texts"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD_TRAINING)
def test_bad_overrides_end_in_one_line(here, overrides, message):
    with pytest.raises(alphabar.UserError) as caught:
        alphabar.train(overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(here.rglob("*.*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "nonsense"}, "sampler=nonsense: no such choice"),
        ({"guidance": "nonsense"}, "guidance=nonsense: no such choice"),
        ({"labels": ["zebra"]}, "labels: need labels 0..9, got zebra"),
        ({"prompts": ["a zebra"]}, "prompts: "),
        ({"num": 0}, "need num >= 1"),
        ({"num_steps": 2000}, "need 1 <= num_steps <= 1000"),
        ({"images": "nowhere"}, "images=nowhere: this model is not conditioned on images"),
        ({"negative": "3"}, "negative: need guidance"),
        ({"num": "x"}, "^num: expected int, got 'x'$"),
        ({"labels": 3.5}, "^labels: expected a list of int or str or int or str or None, got 3.5$"),
        ({"images": 3}, "^images: expected str or None, got 3$"),
        ({"seed": True}, "^seed: expected int, got True$"),
        ({"num_steps": "x"}, "^num_steps: expected int or None, got 'x'$"),
        ({"sampler": 3}, "^sampler: need one of ddim, ddpm, .*, or an object or number such as DDIM\\(num_steps=50\\), got 3$"),
        ({"sampler": alphabar.DDIM}, "^sampler: need one of ddim, .*, got <class 'alphabar"),
        ({"sampler": alphabar.DDIM(), "num_steps": 0}, "^sampler: need num_steps >= 1, got num_steps=0$"),
        (
            {"guidance": [1]},
            "^guidance: need one of apg, autoguidance, classifier_free, none, or an object or number such as 2.5, got ",
        ),
    ],
)
def test_bad_settings_of_samples_end_in_one_line(model, settings, message):
    with pytest.raises(alphabar.UserError, match=message) as caught:
        model.sample(**{"num": 2, **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: alphabar.load("nowhere"), "checkpoint=nowhere: no such file"),
        (lambda model: alphabar.load(model.pipeline.settings.checkpoint, device="abacus"), "device=abacus: "),
        (lambda model: alphabar.load(model.pipeline.settings.checkpoint, weights="raw", ema_length=0.1), "need weights=ema"),
        (lambda model: alphabar.load(3), "checkpoint: expected str, got 3"),
        (lambda model: alphabar.load(model.pipeline.settings.checkpoint, weights="best"), "weights: expected one of ema, raw, got 'best'"),
        (lambda model: alphabar.load(model.pipeline.settings.checkpoint, trust=3), "trust: need a list of texts"),
        (lambda model: alphabar.TrainingRun("nowhere"), "nowhere: not the folder of a run"),
        (lambda model: alphabar.TrainingRun(3), "folder: need the path of a run's folder, got 3"),
        (lambda model: alphabar.show([1]), r"images: need a tensor \[N, C, H, W\], as model.sample returns, got list"),
        (lambda model: model.log_likelihood([1]), r"images: need uint8 \[N, 1, 8, 8\] with N > 0, got list"),
        (lambda model: model.log_likelihood(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), num_steps="x"), "num_steps: expected int, got 'x'"),
        (lambda model: model.log_likelihood(torch.rand(2, 1, 8, 8)), r"images: need uint8 \[N, 1, 8, 8\] with N > 0, got float32 \[2, 1, 8, 8\]"),
        (lambda model: model.log_likelihood(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), "images: need"),
        (lambda model: model.log_likelihood(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), probes=0), "need probes >= 1"),
    ],
)  # fmt: skip
def test_other_bad_input_ends_in_one_line(model, call, message):
    with pytest.raises(alphabar.UserError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_the_document_runs_as_it_stands(here, capsys):
    """With smaller runs: all blocks, one after the other, as a reader would paste them."""
    blocks = documents.blocks((runs.ROOT / "docs" / "library.md").read_text(), "python")
    assert len(blocks) == 5
    smoke = ", ".join(
        repr(word)
        for word in [*runs.words("callbacks.fid=null", "callbacks.film=null", "callbacks.curves=null"), "trainer.max_steps=2"]
    )
    names = {}
    for block in blocks:
        if "alphabar.train" in block:
            assert '"trainer.max_steps=300"' in block
            block = block.replace('"trainer.max_steps=300"', smoke)
        exec(compile(block, "library.md", "exec"), names)
    radius = names["points"].norm(dim=1)
    assert abs(float(radius.mean()) - 1) < 0.05
    assert float(radius.std()) < 0.1
    assert names["run"].samples.name == "step_0000002.png"
    assert names["images"].shape == (16, 1, 8, 8)
    assert names["bits"].isfinite().all()
    assert Path("samples.png").is_file()


def test_numbers_are_a_condition_too(here):
    rng = np.random.default_rng(0)
    np.savez("cells.npz", images=rng.integers(0, 255, (40, 8, 8, 1), np.uint8), vectors=rng.random((40, 2), np.float32))
    run = alphabar.train([*BRIEF, "data=arrays", "data.path=cells.npz", "conditioner=vector", "data.batch_size=8"])
    model = run.model(device="cpu", weights="raw")
    images = model.sample(num=3, vectors=[[0.3, 1.2]], num_steps=2)
    bits, others = (model.bits_per_dimension(images, vectors=[vector], num_steps=2) for vector in ([0.3, 1.2], [9.0, -9.0]))
    assert bits.isfinite().all()
    assert not bits.equal(others)
    with pytest.raises(alphabar.UserError, match="vectors"):
        model.sample(num=1, vectors=[[0.3]])
