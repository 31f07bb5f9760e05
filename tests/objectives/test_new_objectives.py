"""Learned uncertainty, MeanFlow with guidance inside and sCM: against exact minima and forms
written out."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.objectives import FlowMap, Matching, MeanFlow, TrigConsistency, Uncertainty, times
from odesolve.training import fit
from tests.rows import rows

LINEAR, TRIG, VP = ode.paths.Linear(), ode.paths.Trig(), ode.paths.VP()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def test_uncertainty_begins_at_nothing_and_is_finite_at_the_ends():
    u = Uncertainty(VP)
    assert torch.equal(u(torch.tensor([0.0, 0.5, 1.0])), torch.zeros(3))
    torch.nn.init.ones_(u.layer.weight)
    assert torch.isfinite(Uncertainty(LINEAR)(torch.tensor([0.0, 1.0]))).all()
    assert torch.equal(Uncertainty(VP, seed=3).phases, Uncertainty(VP, seed=3).phases)
    model = ode.Model(lambda x, t: 0.3 * x, VP, "noise")
    x = normal(8, 2)
    plain, weighed = (
        Matching(model, **k)(x, generator=generator(1))
        for k in ({}, {"uncertainty": Uncertainty(VP)})
    )
    torch.testing.assert_close(weighed.each, plain.each)
    assert torch.equal(weighed.raw, plain.raw)


def test_the_minimum_is_the_logarithm_of_the_loss():
    """A table of u by the halves of the path: e^u is the mean raw loss of each to rounding."""
    table = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    objective = Matching(
        ode.Model(lambda x, t: 0 * x, VP, "v"), uncertainty=lambda t: table[(t > 0.5).long()]
    )
    x, noise, t = (
        3 * normal(64, 2),
        normal(64, 2, seed=1),
        torch.linspace(0, 1, 64, dtype=torch.float64),
    )
    raw = objective(x, noise=noise, t=t).raw
    with torch.no_grad():
        table.copy_(torch.stack([raw[t <= 0.5].mean(), raw[t > 0.5].mean()]).log())
    for moved, slope in (
        (0.0, 0.0),
        (math.log(2), 0.25),
        (-math.log(2), -0.5),
    ):  # (1 - 1 / factor) / 2, of half the samples
        at = torch.tensor([moved, 0.0], dtype=torch.float64)
        (found,) = torch.autograd.grad(
            Matching(objective.model, uncertainty=lambda t, at=at: (table + at)[(t > 0.5).long()])(
                x, noise=noise, t=t
            ).loss,
            table,
        )
        torch.testing.assert_close(
            found, torch.tensor([slope, 0.0], dtype=torch.float64), rtol=1e-12, atol=1e-14
        )


def test_an_uncertainty_that_does_not_fit():
    model = ode.Model(lambda x, t: x, VP, "v")
    with pytest.raises(
        ode.OdesolveError,
        match=r"uncertainty returned \(4, 1\) for 4 times: "
        r"return one number each",
    ):
        Matching(model, uncertainty=lambda t: t[:, None])(normal(4, 2))
    with pytest.raises(ode.OdesolveError, match="uncertainty"):
        Matching(model, uncertainty=3.0)


def conditional(x, r, t, y):
    return (0.2 + 0.1 * y)[:, None] * x * torch.cos(t - 0.5 * r)[:, None]


@rows(("scale", "mix"), [(2.0, 0.0), (1.5, 0.4), (1.0, 0.0)])
def test_meanflow_averages_the_guided_velocity(scale, mix):
    """The paper's eq. 19 and 21, written out, at r = t and with the slope by finite differences."""
    f = FlowMap(conditional, LINEAR)
    objective = MeanFlow(f, power=0.0, null={"y": 0.0}, scale=scale, mix=mix, drop=0.4)
    x, noise, y = (
        normal(64, 3),
        normal(64, 3, seed=1),
        torch.arange(1.0, 65.0, dtype=torch.float64) / 20,
    )
    t = torch.linspace(0.3, 0.9, 64, dtype=torch.float64)
    r = t - 0.2
    found = objective(x, noise=noise, r=r, t=t, cond={"y": y}, generator=generator(5))
    gone = torch.rand(64, generator=generator(5)) < 0.4
    assert 10 < int(gone.sum()) < 40
    x_t, v, zero = (1 - t)[:, None] * x + t[:, None] * noise, noise - x, torch.zeros_like(y)
    guided = (
        scale * v
        + mix * conditional(x_t, t, t, y)
        + (1 - scale - mix) * conditional(x_t, t, t, zero)
    )
    v, c = torch.where(gone[:, None], v, guided), torch.where(gone, zero, y)
    h = 1e-5
    up, down = (conditional(x_t + k * v, r, t + k, c) for k in (h, -h))
    aim = v - (t - r)[:, None] * (up - down) / (2 * h)
    torch.testing.assert_close(
        found.each, (conditional(x_t, r, t, c) - aim).square().mean(1), rtol=1e-7, atol=1e-9
    )


def test_guidance_without_a_null_is_refused():
    f = FlowMap(conditional, LINEAR)
    with pytest.raises(
        ode.OdesolveError, match="guide from null=: give the conditions of no condition"
    ):
        MeanFlow(f, scale=2.0)
    with pytest.raises(ode.OdesolveError, match="give the same names"):
        MeanFlow(f, scale=2.0, null={"y": 0})(normal(4, 2))


STD = 0.7


def exact(x, t):
    """F of the exact consistency function of N(0, s^2): f = s x / sqrt(s^2 cos^2 + sin^2)."""
    a = 0.5 * math.pi * t
    deviation = torch.sqrt((STD * torch.cos(a)) ** 2 + torch.sin(a) ** 2)
    return ((torch.cos(a) - STD / deviation) / torch.sin(a))[:, None] * x


def teacher(x, t):
    """v = E[dx/da | x] of N(0, s^2)."""
    a = 0.5 * math.pi * t
    variance = (STD * torch.cos(a)) ** 2 + torch.sin(a) ** 2
    return (torch.sin(a) * torch.cos(a) * (1 - STD**2) / variance)[:, None] * x


def test_the_exact_map_has_no_tangent():
    objective = TrigConsistency(ode.Model(exact, TRIG, "v"), teacher=ode.Model(teacher, TRIG, "v"))
    found = objective(STD * normal(50, 3), generator=generator(2))
    assert float(found.derivative.abs().max()) < 1e-12
    assert float(found.loss) < 1e-20


@rows("share", [1.0, 0.3])
def test_the_tangent_is_that_of_f(share):
    """cos(a) df/da along the flow, by finite differences of f = cos x - sin F; and the normalised
    gradient written out."""
    w = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    net = lambda x, t: w * torch.tanh(x) * (1 + t)[:, None]
    x, noise, t = (
        normal(6, 4),
        normal(6, 4, seed=1),
        torch.linspace(0.1, 0.9, 6, dtype=torch.float64),
    )
    found = TrigConsistency(ode.Model(net, TRIG, "v"), share=share)(x, noise=noise, t=t)
    a, h = 0.5 * math.pi * t[:, None], 1e-5
    x_t, v = torch.cos(a) * x + torch.sin(a) * noise, torch.cos(a) * noise - torch.sin(a) * x

    def f(k):
        return torch.cos(a + k) * (x_t + k * v) - torch.sin(a + k) * net(
            x_t + k * v, t + 2 * k / math.pi
        )

    with torch.no_grad():
        plain, slope = (
            net(x_t, t),
            (net(x_t + h * v, t + 2 * h / math.pi) - net(x_t - h * v, t - 2 * h / math.pi))
            / (2 * h),
        )
        g = -(torch.cos(a) ** 2) * (plain - v) - share * torch.cos(a) * torch.sin(a) * (x_t + slope)
        if share == 1.0:
            torch.testing.assert_close(
                g, torch.cos(a) * (f(h) - f(-h)) / (2 * h), rtol=1e-6, atol=1e-8
            )
    torch.testing.assert_close(found.derivative, g, rtol=1e-6, atol=1e-8)
    step = g / (g.square().mean(1, keepdim=True).sqrt() + 0.1)
    torch.testing.assert_close(found.raw, step.square().mean(1), rtol=1e-6, atol=1e-8)
    (gradient,) = torch.autograd.grad(found.loss, w)
    by_hand = (-2 * step * torch.tanh(x_t) * (1 + t)[:, None]).mean()
    torch.testing.assert_close(gradient, by_hand, rtol=1e-6, atol=1e-8)


def test_the_share_rises_with_the_steps():
    """r = min(1, k / H) in step k, begun at nothing (the paper's algorithm 1); without a step it is
    not known."""
    model = ode.Model(lambda x, t: torch.tanh(x) * (1 + t)[:, None], TRIG, "v")
    x, noise, t = (
        normal(6, 4),
        normal(6, 4, seed=1),
        torch.linspace(0.1, 0.9, 6, dtype=torch.float64),
    )
    rising = TrigConsistency(model, warmup=10_000)
    for step, share in (
        (0, 0.0),
        (1, 1e-4),
        (2500, 0.25),
        (9999, 0.9999),
        (10_000, 1.0),
        (25_000, 1.0),
    ):
        exact = TrigConsistency(model, share=share)(x, noise=noise, t=t)
        found = rising(x, noise=noise, t=t, step=step)
        torch.testing.assert_close(found.derivative, exact.derivative, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(found.each, exact.each, rtol=1e-12, atol=1e-14)
    half = TrigConsistency(model, warmup=4, share=0.5)(x, noise=noise, t=t, step=2).derivative
    torch.testing.assert_close(half, rising(x, noise=noise, t=t, share=0.25).derivative)
    with pytest.raises(
        ode.OdesolveError, match="warmup=10000 raises the share by the step: give step="
    ):
        rising(x)
    for warmup in (-1, 2.5, "a"):
        with pytest.raises(ode.OdesolveError, match="warmup"):
            TrigConsistency(model, warmup=warmup)


def test_fit_tells_the_step_of_the_warm_up(tmp_path):
    """Each step has the share of its number, on after a stop, too."""
    pytest.importorskip("safetensors")
    layer, shares = torch.nn.Linear(2, 2), []
    net = lambda x, t: layer(x)
    objective = TrigConsistency(ode.Model(net, TRIG, "v", dtype=torch.float32), warmup=4)
    plain = objective._share
    objective._share = lambda step: shares.append(plain(step)) or shares[-1]
    for steps in (2, 6):
        optimiser = torch.optim.SGD(layer.parameters(), 1e-3)
        fit(
            objective,
            torch.randn(8, 2),
            steps,
            optimiser=optimiser,
            network=layer,
            batch=4,
            folder=tmp_path,
        )
    assert shares == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_training_ends_at_the_exact_map():
    """From a teacher, F a polynomial in t: one step of sampling gets the deviation of the data, .7
    to a hundredth."""
    w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    model = ode.Model(
        lambda x, t: (torch.stack([t**k for k in range(5)], 1) @ w)[:, None] * x, TRIG, "v"
    )
    objective = TrigConsistency(
        model, teacher=ode.Model(teacher, TRIG, "v"), times=times.Uniform(0.02, 1.0)
    )
    optimiser = torch.optim.Adam([w], 0.03)
    for step in range(500):
        if step == 350:
            optimiser.param_groups[0]["lr"] = 0.003
        optimiser.zero_grad()
        objective(STD * normal(128, 1, seed=step), generator=generator(step)).loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = ode.sample(
            model, state=torch.ones(1, 1, dtype=torch.float64), solver="consistency", steps=1
        )
    assert float(found) == pytest.approx(STD, abs=0.01)


@rows(
    ("make", "told"),
    [
        (lambda: TrigConsistency(ode.Model(teacher, VP, "v")), 'give "v" on ode.paths.Trig'),
        (lambda: TrigConsistency(ode.Model(teacher, TRIG, "data")), 'give "v" on ode.paths.Trig'),
        (
            lambda: TrigConsistency(ode.Model(teacher, TRIG, "v").guided(2.0, {}, {})),
            "give the plain one",
        ),
        (
            lambda: TrigConsistency(
                ode.Model(teacher, TRIG, "v"), teacher=ode.Model(teacher, VP, "v")
            ),
            "give one path",
        ),
    ],
)
def test_what_sCM_is_not_for(make, told):
    with pytest.raises(ode.OdesolveError, match=told):
        make()
