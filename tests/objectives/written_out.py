"""Losses of a batch in plain formulas, one function an objective, in whatever precision the batch
has.

A network is net(x, *times, y=, c=, scale=); ``m`` weighs the numbers of a sample, None for all
alike."""

import math
from dataclasses import dataclass, field

import torch

STD = 0.5  # of the data, as edm networks are read
SIGMA = 0.7  # of bridges


@dataclass
class Batch:
    """Data, noise (or what else is random), the source of bridges, times, conditions, numbers of
    steps."""

    x: torch.Tensor
    z: torch.Tensor
    source: torch.Tensor
    t: torch.Tensor
    r: torch.Tensor
    index: torch.Tensor
    cond: dict = field(default_factory=dict)
    scale: torch.Tensor | None = None


def at(path, t):
    """alpha, sigma and their slopes, each (B, 1)."""
    return [f(t)[:, None] for f in (path.alpha, path.sigma, path.dalpha, path.dsigma)]


def mean(square, m):
    return square.mean(1) if m is None else (square * m).sum(1) / m.expand(square.shape).sum(1)


def total(values, m):
    return values.sum(1) if m is None else (values * m).sum(1)


def said(net, path, predicts, x, t, cond):
    """What the network itself says."""
    a, s, _, _ = at(path, t)
    if predicts == "edm":
        return net(x / torch.sqrt((STD * a) ** 2 + s**2), torch.log(s / a)[:, 0] / 4, **cond)
    return net(x, t if path.training_steps is None else t * path.training_steps - 1, **cond)


def data_of(path, predicts, f, x, t):
    """x0 of a prediction f."""
    a, s, da, ds = at(path, t)
    r = torch.sqrt((STD * a) ** 2 + s**2)
    return {
        "data": lambda: f,
        "noise": lambda: (x - s * f) / a,
        "v": lambda: (a * x - s * f) / (a**2 + s**2),
        "velocity": lambda: (f - ds / s * x) / (da - ds * a / s),
        "score": lambda: (x + s**2 * f) / a,
        "edm": lambda: f * STD * s / r + STD**2 * a / r**2 * x,
    }[predicts]()


def data(net, path, predicts, x, t, cond):
    return data_of(path, predicts, said(net, path, predicts, x, t, cond), x, t)


def score(net, path, predicts, x, t, cond):
    a, s, _, _ = at(path, t)
    return (a * data(net, path, predicts, x, t, cond) - x) / s**2


def velocity(net, path, predicts, x, t, cond):
    a, s, da, ds = at(path, t)
    x0 = data(net, path, predicts, x, t, cond)
    return da * x0 + ds * (x - a * x0) / s


def target(path, predicts, x, z, t):
    """What a network that predicts this is to say of data and noise."""
    a, s, da, ds = at(path, t)
    r = torch.sqrt((STD * a) ** 2 + s**2)
    return {
        "data": lambda: x,
        "noise": lambda: z,
        "v": lambda: a * z - s * x,
        "velocity": lambda: da * x + ds * z,
        "score": lambda: -z / s,
        "edm": lambda: (x - STD**2 * a / r**2 * (a * x + s * z)) * r / (STD * s),
    }[predicts]()


def noised(path, b):
    a, s, _, _ = at(path, b.t)
    return a * b.x + s * b.z


def along(f, at, tangents):
    """The derivative of f, by differentiating backwards twice."""
    return torch.autograd.functional.jvp(f, at, tangents)[1]


def rows_of(f, x):
    """f at x, and its Jacobian (B, D, D)."""
    x = x.detach().requires_grad_()
    y = f(x)
    parts = [torch.autograd.grad(y[:, k].sum(), x, retain_graph=True)[0] for k in range(y.shape[1])]
    return y.detach(), torch.stack(parts, 1)


def matching(net, path, predicts, b, m):
    f = said(net, path, predicts, noised(path, b), b.t, b.cond)
    return mean((f - target(path, predicts, b.x, b.z, b.t)).square(), m)


def denoising(net, path, predicts, b, m):
    s = path.sigma(b.t)[:, None]
    return total(
        0.5 * (score(net, path, predicts, noised(path, b), b.t, b.cond) + b.z / s).square(), m
    )


def known(x, t):
    return -x * torch.cos(t)[:, None]


def explicit(net, path, predicts, b, m):
    x = noised(path, b)
    return total(0.5 * (score(net, path, predicts, x, b.t, b.cond) - known(x, b.t)).square(), m)


def implicit(net, path, predicts, b, m):
    s, j = rows_of(lambda x: score(net, path, predicts, x, b.t, b.cond), noised(path, b))
    return total(0.5 * s.square() + j.diagonal(dim1=1, dim2=2), m)


def sliced(net, path, predicts, b, m, v):
    """With projections v (B, D), of numbers that weigh m."""
    s, j = rows_of(lambda x: score(net, path, predicts, x, b.t, b.cond), noised(path, b))
    pushed = torch.einsum("bij,bj->bi", j, v)
    return total(0.5 * s.square() + v * pushed, m)


def bound(net, path, predicts, b, m, chain, learned=False):
    """prior + count KL(q | p) of one step a sample, or count times the decoder's -log p."""
    normal, kl = torch.distributions.Normal, torch.distributions.kl_divergence
    alphas, sigmas, times = chain.alpha, chain.sigma, chain.t
    first = normal(alphas[0] * b.x, sigmas[0])
    prior = kl(first, normal(torch.zeros_like(b.x), path.start_std(float(times[0])))).sum(1)
    t, each = times[b.index], []
    x_t = _noised_at(path, b, t)[0]
    f = said(net, path, predicts, x_t, t, b.cond)
    f, shares = (f[:, :3], 0.5 * (f[:, 3:] + 1)) if learned else (f, torch.zeros_like(f))
    for k, index in enumerate(b.index.tolist()):
        x, z, share, x0 = (
            v[k : k + 1] for v in (b.x, b.z, shares, data_of(path, predicts, f, x_t, t))
        )
        a, s = alphas[index], sigmas[index]
        last = index == len(times) - 1
        # the step whose variances are meant
        p, q = (index - 1, index) if last else (index, index + 1)
        fresh = 1 - (alphas[p] * sigmas[q] / (alphas[q] * sigmas[p])) ** 2
        small, large = sigmas[q] ** 2 * fresh, sigmas[p] ** 2 * fresh
        if last:
            variance = (
                small ** (1 - share) * (s**2) ** share
                if learned
                else torch.full_like(x, float(s**2))
            )
            each.append(-normal(x0, variance.sqrt()).log_prob(x).sum(1))
            continue
        kept = torch.sqrt(sigmas[q] ** 2 - small) / s
        means = [alphas[q] * v + kept * (a * x + s * z - a * v) for v in (x, x0)]
        variance = small ** (1 - share) * large**share
        each.append(kl(normal(means[0], small.sqrt()), normal(means[1], variance.sqrt())).sum(1))
    return prior + len(times) * torch.cat(each)


def hybrid(net, path, predicts, b, m, chain):
    t = chain.t[b.index]
    f = said(net, path, predicts, *_noised_at(path, b, t), b.cond)[:, :3]
    simple = mean((f - target(path, predicts, b.x, b.z, t)).square(), m)
    return simple + 1e-3 * bound(net, path, predicts, b, m, chain, learned=True) / 3


def _noised_at(path, b, t):
    a, s, _, _ = at(path, t)
    return a * b.x + s * b.z, t


def likelihood(net, path, predicts, b, m, start, stop, steps=4):
    """Of data at alpha x, by Runge-Kutta steps of the flow and its log-determinant up to the
    base."""
    t = torch.tensor([start], dtype=b.x.dtype)
    x, log, h = path.alpha(t) * b.x, b.x.shape[1] * path.alpha(t).log(), (stop - start) / steps

    def slope(x, t):
        v, j = rows_of(
            lambda x: velocity(net, path, predicts, x, x.new_full((len(x),), t), b.cond), x
        )
        return v, j.diagonal(dim1=1, dim2=2).sum(1)

    for k in range(steps):
        t, slopes = start + k * h, [slope(x, start + k * h)]
        for share in (0.5, 0.5, 1.0):
            slopes.append(slope(x + share * h * slopes[-1][0], t + share * h))
        v, trace = (
            sum(w * s[i] for w, s in zip((1, 2, 2, 1), slopes, strict=True)) / 6 for i in (0, 1)
        )
        x, log = x + h * v, log + h * trace
    return -torch.distributions.Normal(0.0, path.start_std(stop)).log_prob(x).sum(1) - log


def diffflow(net, path, predicts, b, m, noise, times, g):
    """The forward process, and the noise that takes the backward one along the same way."""
    x, loss = b.x, torch.zeros(len(b.x), dtype=b.x.dtype)
    for z, t, u in zip(noise, times[:-1], times[1:], strict=True):
        h, before, after = u - t, x.new_full((len(x),), t), x.new_full((len(x),), u)
        y = x + h * net(x, before) + g * math.sqrt(h) * z
        delta = (x - y + h * (net(y, after) - g**2 * known(y, after))) / (g * math.sqrt(h))
        x, loss = y, loss + 0.5 * delta.square().sum(1)
    return loss - torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)


def share_of(path, t):
    length = path.t_noise - path.t_data
    return ((t - path.t_data) / length)[:, None], 1 / length


def flow(net, path, predicts, b, m, gamma, slope):
    """Interpolants: data, source and gamma z in between."""
    a, s, da, ds = at(path, b.t)
    u, rate = share_of(path, b.t)
    x_t = a * b.x + s * b.source + gamma(u) * b.z
    v = da * b.x + ds * b.source + slope(u) * rate * b.z
    f = said(net, path, predicts, x_t, b.t, b.cond)
    return mean(
        (f - (v if predicts == "velocity" else data_of(path, "velocity", v, x_t, b.t))).square(), m
    ), x_t


def interpolant(net, path, predicts, b, m):
    gamma = lambda u: 0.3 * torch.sin(math.pi * u) ** 2
    return flow(
        net, path, predicts, b, m, gamma, lambda u: 0.3 * math.pi * torch.sin(2 * math.pi * u)
    )[0]


def two_sided(net, path, predicts, b, m):
    return flow(net, path, predicts, b, m, lambda u: 0.2, lambda u: 0.0)[0]


def score_and_flow(net, path, predicts, b, m, other):
    gamma = lambda u: SIGMA * torch.sqrt(u * (1 - u))
    slope = lambda u: SIGMA * (1 - 2 * u) / (2 * torch.sqrt(u * (1 - u)))
    first, x_t = flow(net, path, predicts, b, m, gamma, slope)
    error = gamma(share_of(path, b.t)[0]) * other(x_t, b.t, **b.cond) + b.z
    return first + mean(error.square(), m)


def bridge(net, path, predicts, b, m):
    """Towards the data: the drift (x_t - x) / u."""
    u, rate = share_of(path, b.t)
    x_t = (1 - u) * b.x + u * b.source + SIGMA * torch.sqrt(u * (1 - u)) * b.z
    f = said(net, path, predicts, x_t, b.t, b.cond)
    return mean((f - (b.x if predicts == "data" else (x_t - b.x) / u * rate)).square(), m)


def mean_flow(net, path, predicts, b, m):
    a, s, da, ds = at(path, b.t)
    x_t, v = a * b.x + s * b.z, da * b.x + ds * b.z
    u = lambda x, r, t: net(x, r, t, **b.cond)
    slope = along(u, (x_t, b.r, b.t), (v, torch.zeros_like(b.r), torch.ones_like(b.t)))
    size = total((u(x_t, b.r, b.t) - v + (b.t - b.r)[:, None] * slope).square(), m)
    return size / (size + 1e-3)


def shortcut(net, path, predicts, b, m):
    """Of 8 steps: of two of the smallest size both halves are the velocity."""
    a, s, da, ds = at(path, b.t)
    x_t, aim = a * b.x + s * b.z, da * b.x + ds * b.z
    middle = 0.5 * (b.r + b.t)
    small = (b.t - b.r).abs() < 0.26
    first = net(x_t, torch.where(small, b.t, middle), b.t, **b.cond)
    there = x_t + (middle - b.t)[:, None] * first
    second = net(there, torch.where(small, middle, b.r), middle, **b.cond)
    aim = torch.where((b.r == b.t)[:, None], aim, 0.5 * (first + second))
    return mean((net(x_t, b.r, b.t, **b.cond) - aim).square(), m)


def carried(net, path, predicts, x, t, cond):
    """A consistency function."""
    away, t1 = (t - path.sigma_min)[:, None], t[:, None]
    x0 = data(net, path, predicts, x, t, cond)
    r = torch.sqrt(t1**2 + STD**2)
    f = (x0 - STD**2 / r**2 * x) * r / (STD * t1)
    return STD**2 / (away**2 + STD**2) * x + STD * away / r * f


def rho_grid(path, points):
    share = torch.arange(points, dtype=torch.float64) / (points - 1)
    low, high = path.sigma_min ** (1 / 7), path.t_max ** (1 / 7)
    return (low + share * (high - low)) ** 7


def consistency(net, path, predicts, b, m, teacher=None):
    times = rho_grid(path, 6)
    r, t = times[b.index].to(b.x), times[b.index + 1].to(b.x)
    x_t = b.x + t[:, None] * b.z
    x_r = b.x + r[:, None] * b.z
    if teacher is not None:  # Heun's step
        h = (r - t)[:, None]
        k = velocity(teacher, path, predicts, x_t, t, b.cond)
        x_r = x_t + 0.5 * h * (k + velocity(teacher, path, predicts, x_t + h * k, r, b.cond))
    aim = carried(net, path, predicts, x_r, r, b.cond)
    return mean((carried(net, path, predicts, x_t, t, b.cond) - aim).square(), m)


def continuous(net, path, predicts, b, m):
    f = lambda x, t: carried(net, path, predicts, x, t, b.cond)
    slope = along(f, (noised(path, b), b.t), (b.z, torch.ones_like(b.t)))
    return mean(f(noised(path, b), b.t) * slope, m)


def trig(net, path, predicts, b, m, share=1.0):
    a = 0.5 * math.pi * b.t[:, None]
    x_t, v = noised(path, b), torch.cos(a) * b.z - torch.sin(a) * b.x
    f = lambda x, t: net(x, t, **b.cond)
    slope = along(f, (x_t, b.t), (v, torch.full_like(b.t, 2 / math.pi)))
    g = -(torch.cos(a) ** 2) * (f(x_t, b.t) - v) - share * torch.cos(a) * torch.sin(a) * (
        x_t + slope
    )
    return mean((g / (mean(g.square(), m).sqrt()[:, None] + 0.1)).square(), m)


def truncated(path, t):
    return torch.clamp_min((path.alpha(t) / path.sigma(t)) ** 2, 1.0)


def halved(net, path, predicts, b, m, teacher, times):
    """Two DDIM steps of the teacher, and what data one such step would say (Salimans and Ho 2022,
    algorithm 2)."""
    t, middle, end = (torch.tensor(times, dtype=torch.float64)[2 * b.index + k] for k in range(3))
    z, _ = start, _ = _noised_at(path, b, t)
    for now, then in ((t, middle), (middle, end)):
        (a, s, _, _), (a2, s2, _, _) = at(path, now), at(path, then)
        x0 = data(teacher, path, predicts, z, now, b.cond)
        z = a2 * x0 + s2 / s * (z - a * x0)
    (a, s, _, _), (a2, s2, _, _) = at(path, t), at(path, end)
    aim = (z - s2 / s * start) / (a2 - s2 / s * a)
    return truncated(path, t) * mean(
        (data(net, path, predicts, start, t, b.cond) - aim).square(), m
    )


def guided(net, path, predicts, b, m, teacher, null):
    x_t = noised(path, b)
    there, gone = (data(teacher, path, predicts, x_t, b.t, c) for c in (b.cond, null))
    aim = gone + b.scale[:, None] * (there - gone)
    own = data(net, path, predicts, x_t, b.t, {**b.cond, "scale": b.scale})
    return truncated(path, b.t) * mean((own - aim).square(), m)
