"""Several kinds of features at once."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from alphabar.config.build import build, check
from alphabar.errors import UserError
from alphabar.metrics import Extractor, Features
from alphabar.metrics.features.dinov2 import DINOv2Features
from alphabar.metrics.features.inception import InceptionFeatures
from alphabar.metrics.features.several import Several
from runs import ROOT
from tiny_models import SPLITS


class Fixed(Features):
    """Has what it is given, or a reason not to."""

    def __init__(self, outcome):
        self.outcome = outcome

    def extractors(self, splits):
        if isinstance(self.outcome, str):
            raise UserError(self.outcome)
        return [self.outcome]


def pixels(name):
    return Extractor(nn.Flatten(), 4, name, name, (1,), 100, "/nowhere")


def test_all_are_those_that_can_be_had(caplog):
    first, last = pixels("inception"), pixels("clip")
    several = Several(Fixed(first), Fixed("dinov2: no file, set features.weights=PATH"), Fixed(last))
    for _ in range(2):
        assert several.extractors(SPLITS) == [first, last]
        assert several.missing == {"dinov2": "no file, set features.dinov2.weights=PATH"}
    assert caplog.messages == ["features=all goes without dinov2: no file, set features.dinov2.weights=PATH"] * 2
    assert Several(Fixed(first), None, None).extractors(SPLITS) == [first]


def test_all_in_the_configuration():
    GlobalHydra.instance().clear()
    words = ["+paths=default", "+features=all", "features.dinov2.weights=/nowhere", "features.clip=null"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(overrides=words)
    check(cfg)
    features = build(cfg.features)
    assert isinstance(features, Several)
    assert features.inception == InceptionFeatures(None, "outputs/cache/features", download=True)
    assert features.dinov2 == DINOv2Features("/nowhere", "outputs/cache/features", download=True)
    assert features.clip is None


def test_all_without_any(caplog):
    with pytest.raises(UserError, match=r"^features=all has none: inception: no file; clip: no library$"):
        Several(Fixed("no file"), None, Fixed("no library")).extractors(SPLITS)
    with pytest.raises(ValueError, match="need at least one of inception, dinov2 and clip, got null for each"):
        Several(None, None, None)
    assert not caplog.messages


def test_a_mistake_of_ours_is_not_taken_for_something_missing():
    class Broken(Features):
        def extractors(self, splits):
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        Several(Broken(), None, None).extractors(SPLITS)
