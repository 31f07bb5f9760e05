"""DiffFlow: gradients of the adjoint are those of the unrolled steps, its values those of
Gaussians, its memory does not grow."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.objectives.diffflow import DiffFlow, _Adjoint
from tests.rows import rows

G = lambda t: 0.7 + 0.5 * t


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


class Net(torch.nn.Module):
    """A small network of x and t; ``bias`` is of no use."""

    def __init__(self, seed, dim=2):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.last = torch.nn.Linear(dim + 1, 8), torch.nn.Linear(8, dim)
        self.bias = torch.nn.Parameter(torch.ones(()))
        self.double()

    def forward(self, x, t):
        return self.last(torch.tanh(self.first(torch.cat([x, t[:, None]], 1))))


def grid(n, end=0.8):
    return end * torch.linspace(0, 1, n + 1, dtype=torch.float64) ** 1.5


def gradients(flow, x, weight, noise, inputs):
    each = flow(x, noise=noise).each
    return each.detach(), torch.autograd.grad((weight * each).sum(), inputs, allow_unused=True)


@rows("n", [1, 2, 3, 7, 16, 30])
def test_the_adjoint_is_autograd_through_the_steps(n):
    """In data and in the parameters of both networks, for any weights of the samples."""
    drift, score = Net(0), Net(1)
    x, noise = normal(5, 2).requires_grad_(), normal(n, 5, 2, seed=1)
    inputs = (x, *drift.parameters(), *score.parameters())
    weight = torch.arange(1.0, 6.0, dtype=torch.float64)
    a, b = (DiffFlow(drift, score, G, grid(n), std=1.3, adjoint=way) for way in (True, False))
    value, found = gradients(a, x, weight, noise, inputs)
    same, want = gradients(b, x, weight, noise, inputs)
    torch.testing.assert_close(value, same, rtol=1e-14, atol=0)
    used = 0
    for mine, theirs in zip(found, want, strict=True):
        if theirs is None:
            assert mine is None
            continue
        used += 1
        assert float((mine - theirs).abs().max()) < 1e-13 * max(1.0, float(theirs.abs().max()))
    assert used == 9


def test_keyed_noise_is_the_same_there_and_back():
    drift, score, x = Net(0), Net(1), normal(6, 2)
    found = []
    for way in (True, False):
        flow = DiffFlow(drift, score, 1.0, grid(9), adjoint=way)
        terms = flow(x, generator=generator(3))
        found.append(
            [
                terms.each.detach(),
                terms.bound,
                *torch.autograd.grad(terms.loss, [drift.first.weight]),
            ]
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    other = DiffFlow(drift, score, 1.0, grid(9))(x, generator=generator(4))
    assert not torch.equal(other.each, found[0][0])
    torch.manual_seed(5)
    first = DiffFlow(drift, score, 1.0, grid(9))(x).each
    torch.manual_seed(5)
    assert torch.equal(first, DiffFlow(drift, score, 1.0, grid(9))(x).each)


def test_functions_that_hold_their_parameters():
    """They are found by the first step, or given."""
    a, c, shared = (
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-0.7, -1.1, 0.2)
    )
    drift, score = lambda x, t: a * x + shared, lambda x, t: c * x * shared
    x, noise = normal(5, 2), normal(4, 5, 2, seed=1)
    want = torch.autograd.grad(
        DiffFlow(drift, score, G, grid(4), adjoint=False)(x, noise=noise).loss, (a, c, shared)
    )
    for params in (None, [a, c, shared]):
        flow = DiffFlow(drift, score, G, grid(4), params=params)
        found = torch.autograd.grad(flow(x, noise=noise).loss, (a, c, shared))
        torch.testing.assert_close(found, want, rtol=1e-13, atol=1e-13)
    late = lambda x, t: (c.detach() if t[0] < 0.5 else c) * x
    flow = DiffFlow(lambda x, t: a * x, late, G, grid(4))
    with pytest.raises(ode.OdesolveError, match="was not found"):
        flow(x, noise=noise).loss.backward()
    mixed = DiffFlow(Net(0), score, G, grid(4))
    torch.autograd.grad(mixed(x, noise=noise).loss, (c, shared, mixed.drift.last.weight))


class Live:
    """What autograd holds: how many numbers, and the most at a time."""

    def __init__(self):
        self.now = self.most = 0

    def pack(self, x):
        return Held(self, x.detach())  # x itself may be an output of the node that holds it

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda held: held.x)
        self.hooks.__enter__()
        return self

    def __exit__(self, *what):
        self.hooks.__exit__(*what)


class Held:
    def __init__(self, live, x):
        self.live, self.x = live, x
        live.now += x.numel()
        live.most = max(live.most, live.now)

    def __del__(self):
        self.live.now -= self.x.numel()


def held(n, adjoint):
    """Numbers that are held after the loss, and the most on the way back."""
    drift, score, x = Net(0), Net(1), normal(50, 2)
    flow = DiffFlow(drift, score, 1.0, grid(n), adjoint=adjoint)
    with Live() as live:
        loss = flow(x, generator=generator()).each.sum()
        kept = live.now
        loss.backward()
    assert drift.first.weight.grad is not None
    return kept, live.most


def test_memory_does_not_grow_with_the_steps():
    few, many = held(4, True), held(64, True)
    assert few == many
    assert few[0] == 50 + 100  # the loss of every sample, and the data
    few, more = held(4, False), held(64, False)
    assert more[0] > 14 * few[0]
    assert many[1] < few[0]


def test_states_on_the_way_back(monkeypatch):
    """2 sqrt(N) of them; N evaluations make the marks and N the states between."""
    flow = DiffFlow(Net(0), Net(1), 1.0, grid(49))
    count, lists = [0], []
    plain = DiffFlow.forward

    def forward(self, i, *args):
        count[0] += 1
        return plain(self, i, *args)

    monkeypatch.setattr(DiffFlow, "forward", forward)
    states = _Adjoint._states
    monkeypatch.setattr(
        _Adjoint, "_states", lambda *a: lists.append(len(found := states(*a))) or found
    )
    loss = flow(normal(3, 2), generator=generator()).loss
    assert count[0] == 49
    loss.backward()
    assert count[0] <= 4 * 49
    assert max(lists) <= 8
    assert len(lists) == 6 + 7


# Linear processes: f = a x, s = c x. Everything is Gaussian.
A, C, STD = -0.8, -0.9, 1.1


def linear(n=6, a=A, c=C, **options):
    return DiffFlow(lambda x, t: a * x, lambda x, t: c * x, G, grid(n), std=STD, **options)


def expected(flow, a, c, variance):
    """The loss of N(0, variance) data, a number: delta is linear in x_i and its noise."""
    total = 0.0
    for i in range(flow.steps):
        h, g, up = flow.times[i + 1] - flow.times[i], flow.levels[i + 1], flow.levels[i]
        kept, noise = 1 + h * a, up * h**0.5
        back = 1 - h * (a - g**2 * c)
        total = total + 0.5 * ((1 - back * kept) ** 2 * variance + (back * noise) ** 2) / (g**2 * h)
        variance = kept**2 * variance + noise**2
    return total + 0.5 * (math.log(2 * math.pi * flow.std**2) + variance / flow.std**2)


def backward_variance(flow, a, c):
    variance = flow.std**2
    for i in range(flow.steps, 0, -1):
        h, g = flow.times[i] - flow.times[i - 1], flow.levels[i]
        variance = (1 - h * (a - g**2 * c)) ** 2 * variance + g**2 * h
    return variance


def test_the_loss_of_gaussians():
    flow, n = linear(), 40_000
    found = flow(0.6 * normal(n, 2), generator=generator(1))
    want = 2 * float(expected(flow, A, C, 0.36))
    error = float(found.each.std()) / n**0.5
    assert abs(float(found.loss) - want) < 4 * error
    assert error < 0.01 * want
    assert found.loss == found.each.mean()
    assert torch.equal(found.t, torch.full((n,), 0.8, dtype=torch.float64))


@rows("x0", [0.0, 0.9, -1.7])
def test_the_bound_is_of_the_density_that_is_sampled(x0):
    """E exp(-bound) is p_B(x) itself, over forward trajectories from x; the bound lies above -log
    p_B."""
    flow, n = linear(), 200_000
    x = torch.full((n, 1), x0, dtype=torch.float64)
    found = flow(x, generator=generator(2))
    variance = backward_variance(flow, A, C)
    density = math.exp(-0.5 * x0**2 / variance) / math.sqrt(2 * math.pi * variance)
    weight = torch.exp(-found.bound)
    error = float(weight.std()) / n**0.5
    assert abs(float(weight.mean()) - density) < 4 * error
    assert error < 0.01 * density
    assert float(found.bound.mean()) > -math.log(density)
    assert not found.bound.requires_grad


def test_samples_are_of_the_backward_process():
    flow, n = linear(), 100_000
    x = flow.sample((n, 2), seed=3, dtype=torch.float64)
    variance = backward_variance(flow, A, C)
    assert abs(float(x.square().mean()) - variance) < 4 * variance * (2 / (2 * n)) ** 0.5
    assert abs(float(x.mean())) < 4 * (variance / (2 * n)) ** 0.5
    assert abs(float((x[:, 0] * x[:, 1]).mean())) < 4 * variance / n**0.5


def test_samples_are_keyed():
    flow = DiffFlow(Net(0), Net(1), G, grid(5))
    whole = flow.sample((6, 2), seed=3, dtype=torch.float64)
    assert torch.equal(whole[4:], flow.sample((2, 2), seed=3, ids=[4, 5], dtype=torch.float64))
    assert not torch.equal(whole, flow.sample((6, 2), seed=4, dtype=torch.float64))
    drawn = [flow.sample((6, 2), seed=generator(s), dtype=torch.float64) for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not whole.requires_grad
    assert flow.sample((3, 2), seed=1, solver="sra1", dtype=torch.float64).shape == (3, 2)


def test_samples_retrace_the_deltas():
    """Deltas of the loss are the noise that the sampler adds: a trajectory of the sampler has
    |delta|^2 / 2 of its noise."""
    flow = DiffFlow(Net(0), Net(1), G, grid(4))
    y, total = normal(5, 2), 0.0
    for i in range(3, -1, -1):
        z, h = normal(5, 2, seed=i + 1), flow.times[i + 1] - flow.times[i]
        t = torch.full((5, 1), flow.times[i + 1], dtype=torch.float64)
        x = y - h * flow.backward_drift(t, y) + flow.levels[i + 1] * h**0.5 * z
        at = torch.full((5,), flow.times[i], dtype=torch.float64)
        forth = (y - flow.forward(i, x, torch.zeros_like(x))) / (flow.levels[i] * h**0.5)
        _, cost, _ = flow.step(i, x, forth, flow.drift(x, at))
        total = total + cost - 0.5 * z.square().sum(1)
        if i == 3:
            total = total - 0.5 * y.square().sum(1) - math.log(2 * math.pi)
        y = x
    torch.testing.assert_close(total, torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-10)


def test_its_flow_has_a_density():
    """f - g^2 s / 2 of the exact score carries N(0, 0.36) to the density at the end."""
    spread = lambda t: 0.36 + t  # f = 0, g = 1
    flow = DiffFlow(lambda x, t: 0 * x, lambda x, t: -x / spread(t)[:, None], 1.0, grid(5))
    x = 0.6 * normal(4, 2)
    base = lambda y: (
        -0.5 * y.square() / spread(0.8) - 0.5 * math.log(2 * math.pi * spread(0.8))
    ).sum(1)
    found = ode.log_prob(flow.velocity, x, t=(0.0, 0.8), base=base, trace="exact", tol=1e-8)
    want = (-0.5 * x.square() / 0.36 - 0.5 * math.log(2 * math.pi * 0.36)).sum(1)
    torch.testing.assert_close(found.value, want, rtol=0, atol=1e-6)


def test_training_lowers_the_loss_to_its_minimum():
    """A linear pair on N(0, 0.36): the loss in closed form falls, and ends where that of its
    minimiser lies."""
    a, c = (torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (0.0, 0.0))
    flow = DiffFlow(lambda x, t: a * x, lambda x, t: c * x, G, grid(6), std=STD)
    best = [p.detach().clone().requires_grad_() for p in (a, c)]
    optimiser = torch.optim.LBFGS(best, max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = expected(flow, *best, torch.tensor(0.36, dtype=torch.float64))
        loss.backward()
        return loss

    optimiser.step(closure)
    floor = float(closure().detach())
    before = float(expected(flow, a.detach(), c.detach(), 0.36))
    adam, draws = torch.optim.Adam([a, c], lr=0.05), generator(1)
    for k in range(120):
        adam.zero_grad()
        x = 0.6 * normal(256, 1, seed=100 + k)
        flow(x, generator=draws).loss.backward()
        adam.step()
    after = float(expected(flow, a.detach(), c.detach(), 0.36))
    assert before > floor + 0.3
    assert after < floor + 0.01
    samples = flow.sample((20_000, 1), seed=1, dtype=torch.float64)
    variance = float(backward_variance(flow, a.detach(), c.detach()))
    assert abs(float(samples.square().mean()) - variance) < 4 * variance * (2 / 20_000) ** 0.5
    assert abs(variance - float(backward_variance(flow, *(p.detach() for p in best)))) < 0.05


def test_images_in_float32():
    nets = [torch.nn.Conv2d(1, 1, 3, padding=1) for _ in range(2)]
    flow = DiffFlow(lambda x, t: nets[0](x), lambda x, t: nets[1](x), 1.0, grid(5))
    found = flow(normal(3, 1, 4, 4).float(), generator=generator())
    assert found.loss.dtype == torch.float32
    found.loss.backward()
    assert all(float(net.weight.grad.abs().min()) > 0 for net in nets)
    assert flow.sample((2, 1, 4, 4), seed=0).shape == (2, 1, 4, 4)


def test_no_gradients_of_gradients():
    flow = DiffFlow(Net(0), Net(1), 1.0, grid(3))
    (g,) = torch.autograd.grad(flow(normal(3, 2)).loss, flow.drift.last.bias, create_graph=True)
    with pytest.raises(ode.OdesolveError, match="no gradients of their own"):
        g.sum().backward()


@rows(
    ("call", "told"),
    [
        (lambda: DiffFlow(1.0, Net(1), 1.0, grid(3)), "give a function"),
        (lambda: DiffFlow(Net(0), Net(1), 1.0, [1.0, 0.5, 0.0]), "times do not rise"),
        (lambda: DiffFlow(Net(0), Net(1), 1.0, [1.0]), "times do not rise"),
        (lambda: DiffFlow(Net(0), Net(1), 0.0, grid(3)), "give numbers above 0"),
        (lambda: DiffFlow(Net(0), Net(1), lambda t: t, grid(3)), "give numbers above 0"),
        (lambda: DiffFlow(Net(0), Net(1), 1.0, grid(3), std=0.0), "give numbers above 0"),
        (lambda: DiffFlow(Net(0), Net(1), 1.0, grid(3))(torch.zeros(3)), "give floats of shape"),
        (
            lambda: DiffFlow(Net(0), Net(1), 1.0, grid(3))(normal(4, 2), noise=normal(4, 2)),
            r"give \(3, 4, 2\)",
        ),
        (
            lambda: DiffFlow(Net(0), lambda x, t: x[:, :1], 1.0, grid(3))(normal(4, 2)),
            "floats of the same shape",
        ),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(ode.OdesolveError, match=told):
        call()


@rows("layers", ["drift", "score"])
def test_dropout_that_the_adjoint_would_draw_anew_is_refused(layers):
    """Its gradients would be those of another network; with every step kept there is one draw a
    call."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    parts = {"drift": lambda x, t: -x, "score": lambda x, t: -x, layers: lambda x, t: net(x)}
    x = torch.ones(3, 2)
    with pytest.raises(ode.OdesolveError, match=r"call net.eval\(\), or give adjoint=False"):
        DiffFlow(**parts, g=1.0, times=[0.0, 0.5, 1.0])(x)
    assert torch.isfinite(DiffFlow(**parts, g=1.0, times=[0.0, 0.5, 1.0], adjoint=False)(x).loss)
    net.eval()
    assert torch.isfinite(DiffFlow(**parts, g=1.0, times=[0.0, 0.5, 1.0])(x).loss)
