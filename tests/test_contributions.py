"""Five parts that a contributor adds, each as a file of Python and one of YAML: nothing else has to know of them."""

import re

import pytest

import contributions
import runs

NAMES = ("quadratic", "plain_euler", "two_convolutions", "brightness", "stripes")
SUITES = (
    "test_schedules", "test_convergence", "test_networks", "test_conditioners_and_codecs", "test_architecture", "test_cli", "test_overrides",
)  # fmt: skip
OF_ALL_PARTS = (
    "docstrings_begin",
    "help_is_for_people",
    "one_clear_line and schedule",
    "one_clear_line and data",
)  # of whatever is there


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository with a schedule, a sampler, a network, a conditioner and a dataset more."""
    return contributions.copy_with(tmp_path_factory.mktemp("copy"), contributions.FILES)


def python(copy, *arguments, cwd=None):
    """(Exit code, stdout, stderr) of `python ARGUMENTS` with the package of the copy."""
    return runs.run(*arguments, cwd=cwd or copy, env={"PYTHONPATH": str(copy / "src")})


def test_tests_that_discover_parts_find_them_and_pass(copy):
    files = [f"tests/{name}.py" for name in SUITES]
    quiet = ("-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore:Module already imported so cannot be rewritten")
    chosen = " or ".join([*NAMES, *OF_ALL_PARTS])
    code, out, err = python(copy, "-m", "pytest", "-vv", *quiet, "-k", chosen, *files)
    assert code == 0, out[-4000:] + err
    for name in NAMES[:4]:
        assert re.search(rf"\[(.*-)?{name}(-.*)?\] PASSED", out), name


def test_they_train_together(copy, tmp_path):
    parts = [
        "schedule=quadratic",
        "schedule.beta_max=0.02",
        "sampler=plain_euler",
        "network=two_convolutions",
        "data=stripes",
        "features=classifier",
    ]
    small = [word for word in runs.words() if not word.startswith("network.")]
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    code, _, err = python(copy, str(copy / "train.py"), *small, *parts, "trainer.max_steps=2", folder, cwd=tmp_path)
    assert code == 0, err
    saved = runs.checkpoint(tmp_path / "run")["config"]
    assert saved["schedule"]["_target_"] == "alphabar.diffusion.schedules.quadratic.QuadraticSchedule"
    assert saved["sampler"]["_target_"] == "alphabar.diffusion.samplers.plain_euler.PlainEuler"
    assert (tmp_path / "run" / "film.png").exists()


def test_a_conditioner_is_trained_previewed_and_sampled_from(copy, tmp_path):
    folder = tmp_path / "run"
    small = runs.words("callbacks.fid=null", "trainer.max_steps=2", "conditioner=brightness", folder=folder)
    code, _, err = python(copy, str(copy / "train.py"), *small, cwd=tmp_path)
    assert code == 0, err
    words = [f"checkpoint={folder}/checkpoints/last.ckpt", 'prompt="0.5"', "num=2", "sampler.num_steps=2"]
    code, _, err = python(copy, str(copy / "sample.py"), *words, f"hydra.run.dir={tmp_path / 'drawn'}", cwd=tmp_path)
    assert code == 0, err
    assert (tmp_path / "drawn" / "grid.png").exists()


def test_help_names_them(copy):
    code, out, err = python(copy, str(copy / "train.py"), "--help")
    assert code == 0, err
    assert all(name in out for name in NAMES)
