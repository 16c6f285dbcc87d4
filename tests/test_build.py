"""`build`: objects as a configuration describes them, and complaints that say where in it."""

import pickle

import pytest
from omegaconf import DictConfig, ListConfig, OmegaConf

from alphabar.config.build import ConfigError, build

pytestmark = pytest.mark.usefixtures("toys")


def test_constructors_get_plain_values(toys):
    cfg = OmegaConf.create(
        "{sizes: [1, 2], tree: {_target_: alphabar.toys.Tree, width: 1, sizes: '${sizes}', leaves: {a: {_target_: alphabar.toys.Leaf}},"
        "anything: {x: [1]}, make: {_target_: alphabar.toys.Tree, _partial_: true, height: 2}}}"
    )
    given = build(cfg.tree).given
    assert type(given["sizes"]) is list
    assert type(given["anything"]) is dict
    assert type(given["anything"]["x"]) is list
    assert not any(isinstance(value, DictConfig | ListConfig) for value in given.values())
    assert isinstance(given["leaves"]["a"], toys.Leaf)
    assert given["make"](5).given["height"] == 2


def test_members_that_are_null_are_left_out():
    cfg = OmegaConf.create("{all: {a: {_target_: alphabar.toys.Leaf}, b: null}}")
    assert list(build(cfg.all)) == ["a"]


@pytest.mark.parametrize("path", ["", "tree"])
def test_a_constructor_s_complaint_carries_the_path_where_it_is_written(path):
    cfg = OmegaConf.create(
        "{inner: {_target_: alphabar.toys.Tree, width: 0}, tree: {_target_: alphabar.toys.Tree, width: 1, anything: '${inner}'}}"
    )
    with pytest.raises(ConfigError, match=r"^inner: need width >= 1, got width=0$"):
        build(cfg.tree, path)


def test_a_complaint_is_one_line_even_if_it_comes_late():
    cfg = OmegaConf.create("{fake: {_target_: alphabar.toys.Fake, _partial_: true}}")
    make = build(cfg.fake)
    with pytest.raises(ConfigError, match=r"^fake: size does$"):
        make(3)


def test_devices_that_do_not_exist_are_a_complaint():
    cfg = OmegaConf.create("{trainer: {_target_: lightning.pytorch.Trainer, accelerator: mps, devices: 7, logger: false}}")
    with pytest.raises(ConfigError, match=r"^trainer: "):
        build(cfg.trainer)


def test_a_bug_is_not_a_complaint():
    with pytest.raises(RuntimeError, match="a bug"):
        build(OmegaConf.create("{tree: {_target_: alphabar.toys.Tree, width: 13}}").tree)


def test_a_missing_value_is_named_when_building():
    cfg = OmegaConf.create("{shape: {width: '???'}, tree: {_target_: alphabar.toys.Tree, width: '${shape.width}'}}")
    with pytest.raises(ConfigError, match=r"^tree: .*shape.width"):
        build(cfg.tree)


def test_what_makes_something_later_can_be_pickled():
    cfg = OmegaConf.create("{optimizer: {_target_: torch.optim.SGD, _partial_: true, lr: 1e-4}}")
    assert pickle.loads(pickle.dumps(build(cfg.optimizer))).keywords == {"lr": 1e-4}
