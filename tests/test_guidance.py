"""Guidance: what it does to two predictions, and to whom it listens."""

import pytest
import torch
from torch import nn

from alphabar.diffusion.denoiser import NetworkDenoiser, Prediction
from alphabar.diffusion.guidance import AutoguidedDenoiser, CFGDenoiser, Linear, Projected
from alphabar.diffusion.parameterizations import Epsilon
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.from_alpha_bar import CosineSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.schedules.shifted_cosine import ShiftedCosineSchedule
from alphabar.diffusion.schedules.straight import StraightSchedule
from alphabar.diffusion.thresholdings import Static, Thresholded
from oracle import ConditionalGaussianDenoiser, seeded

SCHEDULES = {"linear": LinearSchedule(), "cosine": CosineSchedule(), "edm": EDMSchedule(), "straight": StraightSchedule()}
COND, NULL = (
    {"vector": torch.tensor([[0.8, 0.4]])},
    {"vector": torch.tensor([[0.0, 0.9]])},
)  # as ConditionalGaussianDenoiser reads it
RULES = [
    Linear(weight=3.0),
    Linear(weight=-0.5),
    Linear(weight=3.0, rescale=0.7, interval=(0.2, 0.6)),
    Projected(weight=4.0),
    Projected(weight=4.0, parallel=0.3, max_norm=0.5),
]


class Net(nn.Module):
    """A network without symmetry, which learns the variance, too; it remembers how many images it was shown."""

    def __init__(self, seed=0):
        super().__init__()
        self.mix, self.conditioned = seeded(seed, 3, 6) / 2, seeded(seed + 1, 5, 6)
        self.seen = []

    def forward(self, x, label, cond=None):
        self.seen.append(len(x))
        vector = self.conditioned.sum(0) if cond is None else cond["vector"] @ self.conditioned
        h = torch.einsum("bchw,cd->bdhw", x, self.mix) + (vector + label[:, None] / 1000)[..., None, None]
        return h.tanh()


def network(schedule=SCHEDULES["linear"], seed=0):
    return NetworkDenoiser(Net(seed), schedule, Epsilon())


def inputs(schedule=SCHEDULES["linear"], levels=(0.3, 0.3, 0.3, 0.3)):
    cond, null = {"vector": seeded(8, 4, 5)}, {"vector": seeded(9, 1, 5)}
    return seeded(7, 4, 3, 6, 6), schedule.time(torch.tensor(levels)), cond, null


def assert_equal(prediction, other):
    assert all(torch.equal(one, two) for one, two in zip(prediction, other, strict=True))


def per_image(values):
    return values.flatten(1)


def pair(num=4):
    """A strong and a weak prediction for the same x_t, and the scales: levels from close to data to close to noise."""
    schedule = SCHEDULES["linear"]
    x_t, t = seeded(0, num, 3, 4, 4), schedule.time(torch.linspace(0.01, 0.95, num))
    alpha, sigma = schedule.at(t, x_t)
    strong, weak = seeded(1, *x_t.shape), 0.7 * seeded(2, *x_t.shape) + 0.1
    return x_t, *(Prediction(x, (x_t - alpha * x) / sigma) for x in (strong, weak)), alpha, sigma


@pytest.mark.parametrize("rule", [Linear(weight=1.0, rescale=0.5), Projected(weight=1.0, max_norm=0.1)])
def test_weight_1_is_the_strong_prediction_and_nothing_else(rule):
    x_t, t, cond, null = inputs()
    denoiser, weak = network(), network(seed=5)
    expected = denoiser(x_t, t, cond)
    assert_equal(CFGDenoiser(denoiser, rule, null)(x_t, t, cond), expected)
    assert_equal(AutoguidedDenoiser(denoiser, weak, rule)(x_t, t, cond), expected)
    assert denoiser.network.seen == [4, 4, 4]
    assert weak.network.seen == []


def test_weight_0_is_the_weak_prediction():
    x_t, t, cond, null = inputs()
    denoiser, weak = network(), network(seed=5)
    free = CFGDenoiser(denoiser, Linear(weight=0.0), null)(x_t, t, cond)
    expected = denoiser(x_t, t, {"vector": null["vector"].expand(4, -1)})
    torch.testing.assert_close(free[:2], expected[:2], rtol=1e-6, atol=1e-6)
    auto = AutoguidedDenoiser(denoiser, weak, Linear(weight=0.0))(x_t, t, cond)
    assert_equal(auto[:2], weak(x_t, t, cond)[:2])


@pytest.mark.parametrize("null_rows", [1, 4])
def test_a_doubled_batch_is_two_passes(null_rows):
    x_t, t, cond, _ = inputs(levels=(0.1, 0.4, 0.7, 1.0))
    denoiser, null = network(), {"vector": seeded(9, null_rows, 5)}
    guided = CFGDenoiser(denoiser, Linear(weight=2.5), null)(x_t, t, cond)
    assert denoiser.network.seen == [8]
    strong, weak = denoiser(x_t, t, cond), denoiser(x_t, t, {"vector": null["vector"].expand(4, -1)})
    for one, other, result in zip(strong[:2], weak[:2], guided[:2], strict=True):
        torch.testing.assert_close(result, other + 2.5 * (one - other), rtol=1e-6, atol=1e-5 * float(one.abs().max()))
    torch.testing.assert_close(guided.variance, strong.variance, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.label)
def test_the_pair_stays_on_the_line(rule):
    x_t, strong, weak, alpha, sigma = pair()
    x_hat, eps_hat, _ = rule(strong, weak, alpha, sigma)
    assert not torch.allclose(x_hat, strong.x_hat)
    torch.testing.assert_close(alpha * x_hat + sigma * eps_hat, x_t, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("phi", [0.0, 0.4, 1.0])
def test_rescaling_brings_the_spread_back(phi):
    _, strong, weak, alpha, sigma = pair()
    plain = Linear(weight=4.0)(strong, weak, alpha, sigma).x_hat
    x_hat = Linear(weight=4.0, rescale=phi)(strong, weak, alpha, sigma).x_hat
    wanted, before, now = (per_image(value).std(1) for value in (strong.x_hat, plain, x_hat))
    assert (before > 1.5 * wanted).all()
    torch.testing.assert_close(now, phi * wanted + (1 - phi) * before)
    torch.testing.assert_close(x_hat, plain * (now / before).view(-1, 1, 1, 1))


def test_without_a_spread_there_is_nothing_to_rescale():
    ones = torch.ones(2, 1)
    prediction = Linear(weight=3.0, rescale=1.0)(Prediction(2 * ones, ones), Prediction(ones, ones), ones, ones)
    assert prediction.x_hat.tolist() == [[4.0], [4.0]]


def test_outside_of_its_interval_guidance_does_nothing():
    rule = Linear(weight=3.0, interval=(0.3, 0.5))
    everywhere = Linear(weight=3.0)
    denoiser = network()
    for level, inside in ((0.1, False), (0.4, True), (0.7, False)):
        x_t, t, cond, null = inputs(levels=(level,) * 4)
        denoiser.network.seen.clear()
        guided = CFGDenoiser(denoiser, rule, null)(x_t, t, cond)
        assert denoiser.network.seen == [8 if inside else 4]
        assert_equal(guided, CFGDenoiser(denoiser, everywhere, null)(x_t, t, cond) if inside else denoiser(x_t, t, cond))


def test_each_row_has_its_own_time():
    x_t, t, cond, null = inputs(levels=(0.1, 0.4, 0.45, 0.9))
    denoiser = network()
    guided = CFGDenoiser(denoiser, Linear(weight=3.0, interval=(0.3, 0.5)), null)(x_t, t, cond)
    everywhere, strong = CFGDenoiser(denoiser, Linear(weight=3.0), null)(x_t, t, cond), denoiser(x_t, t, cond)
    for result, inside, outside in zip(guided[:2], everywhere[:2], strong[:2], strict=True):
        assert torch.equal(result[1:3], inside[1:3])
        torch.testing.assert_close(result[[0, 3]], outside[[0, 3]], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), ShiftedCosineSchedule(128), StraightSchedule(shift=1.3)])
def test_an_interval_takes_in_its_ends(schedule):
    """Also where the level of the last time is rounded to more than 1, as with this shift in float32."""
    for dtype in (torch.float32, torch.float64):
        first, last = schedule.time(torch.tensor([0.0, 1.0], dtype=dtype)).unbind()
        assert Linear(weight=2.0, interval=(0.5, 1.0 if not schedule.is_discrete else 0.9995)).acts(schedule, last[None]).item()
        assert Linear(weight=2.0, interval=(0.0, 0.5)).acts(schedule, first[None]).item()
        assert not Linear(weight=2.0, interval=(0.0, 0.5)).acts(schedule, last[None]).item()


def test_apg_leaves_out_what_points_along_the_prediction():
    _, strong, weak, alpha, sigma = pair()
    difference, along = (per_image(value) for value in (strong.x_hat - weak.x_hat, strong.x_hat))
    update = per_image(Projected(weight=5.0)(strong, weak, alpha, sigma).x_hat - strong.x_hat) / 4
    norms = update.norm(dim=1) * along.norm(dim=1)
    assert ((difference * along).sum(1).abs() / norms > 0.3).all()
    assert ((update * along).sum(1).abs() / norms < 1e-6).all()
    rest = difference - update  # parallel to the prediction
    cosine = (rest * along).sum(1).abs() / (rest.norm(dim=1) * along.norm(dim=1))
    torch.testing.assert_close(cosine, torch.ones(4))


def test_apg_with_all_of_it_is_linear():
    x_t, t, cond, null = inputs(levels=(0.1, 0.4, 0.7, 0.9))
    denoiser = network()
    apg = CFGDenoiser(denoiser, Projected(weight=3.0, parallel=1.0), null)(x_t, t, cond)
    linear = CFGDenoiser(denoiser, Linear(weight=3.0), null)(x_t, t, cond)
    for one, other in zip(apg, linear, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_apg_shortens_long_differences_alone():
    _, strong, weak, alpha, sigma = pair()
    lengths = per_image(strong.x_hat - weak.x_hat).norm(dim=1)
    max_norm = float(lengths.sort().values[1:3].mean())  # two of four are longer
    rule = Projected(weight=2.0, parallel=1.0, max_norm=max_norm)
    update = per_image(rule(strong, weak, alpha, sigma).x_hat - strong.x_hat)
    torch.testing.assert_close(update.norm(dim=1), lengths.clamp(max=max_norm))


def test_thresholding_may_lie_within_as_well():
    schedule = SCHEDULES["linear"]
    x_t, t = 3 * seeded(0, 4, 3), torch.full((4,), 500)
    within = Thresholded(ConditionalGaussianDenoiser(schedule), Static())
    alpha, sigma = schedule.at(t, x_t)
    x_hat, eps_hat, _ = CFGDenoiser(within, Linear(weight=2.0), NULL)(x_t, t, {"vector": COND["vector"].expand(4, -1)})
    torch.testing.assert_close(alpha * x_hat + sigma * eps_hat, x_t)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.label)
def test_a_weak_model_that_is_the_strong_one_changes_nothing(rule):
    x_t, t, cond, _ = inputs(levels=(0.1, 0.4, 0.7, 0.9))
    denoiser = network()
    for one, other in zip(AutoguidedDenoiser(denoiser, denoiser, rule)(x_t, t, cond), denoiser(x_t, t, cond), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))


def test_a_network_that_learns_no_variance_gives_none():
    schedule = SCHEDULES["edm"]
    guided = CFGDenoiser(ConditionalGaussianDenoiser(schedule), Linear(weight=2.0), NULL)
    assert guided(seeded(0, 1, 3), torch.ones(1), COND).variance is None


@pytest.mark.parametrize(
    ("rule", "label"),
    [
        (Linear(weight=2), "cfg2.0"),
        (Linear(weight=2.0, rescale=0.7, interval=(0.2, 0.8)), "cfg2.0-rescale0.7-interval0.2-0.8"),
        (Projected(weight=4.5), "apg4.5"),
        (Projected(weight=4.5, parallel=0.5, max_norm=15, interval=(0, 1)), "apg4.5-parallel0.5-max_norm15.0-interval0.0-1.0"),
    ],
)
def test_a_label_contains_the_settings_that_change_a_figure(rule, label):
    assert rule.label == label


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(weight=float("nan")), "need a finite weight, got weight=nan"),
        (lambda: Projected(weight=float("inf")), "need a finite weight, got weight=inf"),
        (lambda: Linear(weight=2.0, rescale=1.5), "need 0 <= rescale <= 1, got rescale=1.5"),
        (lambda: Linear(weight=2.0, interval=(0.6, 0.4)), r"need 0 <= low < high <= 1, got interval=\(0.6, 0.4\)"),
        (lambda: Projected(weight=2.0, interval=(0.0, 1.2)), r"need 0 <= low < high <= 1, got interval=\(0.0, 1.2\)"),
        (lambda: Projected(weight=2.0, parallel=-1.0), "need 0 <= parallel <= 1, got parallel=-1.0"),
        (lambda: Projected(weight=2.0, max_norm=0.0), "need max_norm > 0, or none, got max_norm=0.0"),
        (lambda: CFGDenoiser(network(), Linear(weight=2.0), None), "a model that was trained with a condition, got null=None"),
        (
            lambda: AutoguidedDenoiser(network(), network(CosineSchedule()), Linear(weight=2.0)),
            "on the same schedule, got LinearSchedule and CosineSchedule, which differ",
        ),
        (lambda: AutoguidedDenoiser(network(), network(LinearSchedule(100)), Linear(weight=2.0)), "LinearSchedule, which differ"),
        (lambda: AutoguidedDenoiser(network(), network(EDMSchedule()), Linear(weight=2.0)), "LinearSchedule and EDMSchedule"),
    ],
)
def test_what_makes_no_guidance_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_no_condition_is_refused_at_every_weight(weight):
    x_t, t, _, null = inputs()
    with pytest.raises(ValueError, match="guidance needs a model that was trained with a condition, got cond=None"):
        CFGDenoiser(network(), Linear(weight=weight), null)(x_t, t)


@pytest.mark.parametrize(
    ("null", "message"),
    [
        ({"tokens": torch.zeros(1, 5)}, r"with the same names, got \['vector'\] and \['tokens'\]"),
        ({"vector": torch.zeros(1, 4)}, r"shaped as the condition, vector \[5\], got \[4\]"),
        ({"vector": torch.zeros(3, 5)}, "for 1 or for all 4 images, got vector for 4, null for 3"),
    ],
)
def test_a_null_condition_of_another_kind_is_refused(null, message):
    x_t, t, cond, _ = inputs()
    with pytest.raises(ValueError, match=message):
        CFGDenoiser(network(), Linear(weight=2.0), null)(x_t, t, cond)
