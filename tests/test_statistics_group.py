"""The group `statistics` means the same in training and in evaluation."""

from pathlib import Path

import pytest

import runs

QUICK = ("trainer.max_steps=2", "callbacks.samples=null", "callbacks.film=null", "callbacks.curves=null")
TINY = [word for word in runs.TINY if not word.startswith(("callbacks.samples", "callbacks.film"))]
ALL = ("fid", "kid", "kid_std", "inception_score", "inception_score_std", "precision", "recall", "density", "coverage")


def trained(command, *words) -> dict[str, str]:
    """Returns the last row of metrics.csv of a tiny run."""
    code, _, err = command("train", *runs.words(*words, *QUICK, folder="out", tiny=TINY))
    assert code == 0, err
    return runs.table(Path("out/metrics.csv"))[-1]


@pytest.mark.parametrize(
    ("statistics", "measured"),
    [("kid", ("fid", "kid", "kid_std")), ("[fid,prdc]", ("fid", "precision", "recall", "density", "coverage")), ("all", ALL)],
)
def test_statistics_are_measured_in_training(command, statistics, measured):
    row = trained(command, f"statistics={statistics}")
    names = {name.partition("/")[0] for name, value in row.items() if name.endswith("/n64-classifier-ema-ddim3") and value}
    assert names == set(measured)


def test_samples_of_classes_are_judged_in_training(command):
    row = trained(command, "statistics=accuracy", "conditioner=class_label")
    assert 0 <= float(row["accuracy/n64-classifier-ema-ddim3"]) <= 1


def test_figures_of_training_are_those_of_evaluation(command):
    row = trained(command, "statistics=[fid,kid]", "seed=1")
    features = ("features.max_images=200", f"features.cache_dir={runs.CACHE}")
    words = ("num=64", "sampler.num_steps=3", "statistics=kid", *features, "hydra.run.dir=judged")
    code, _, err = command("evaluate", "checkpoint=out/checkpoints/last.ckpt", *words)
    assert code == 0, err
    name = "kid/n64-classifier-ema-ddim3"
    assert runs.figures(Path("judged"))[name] == pytest.approx(float(row[name]), rel=1e-4)


def test_a_wrong_statistic_is_named_with_the_choices(command):
    code, _, err = command("train", "statistics=kdi")
    assert code == 2
    assert "statistics=kdi: " in err
    assert "kid" in err
