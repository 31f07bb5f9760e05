"""Fields with known traces, and networks that are hard to differentiate."""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import odesolve as ode
from odesolve.noise.keys import keys_of


def keys(batch, seed=0, ids=None):
    return keys_of(batch, seed, ids, torch.device("cpu"))


def begin(estimator, x, seed=0):
    return estimator.begin(x, keys(len(x), seed))


def mlp(dim, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(dim, 2 * dim), nn.Tanh(), nn.Linear(2 * dim, dim)).double()


def true_trace(f, x):
    """From the full Jacobian of every sample, one row at a time."""
    leaf = x.detach().requires_grad_()
    out = f(leaf).flatten(1).sum(0)
    rows = [
        torch.autograd.grad(o, leaf, retain_graph=True)[0].flatten(1)[:, i]
        for i, o in enumerate(out)
    ]
    return torch.stack(rows).sum(0)


def matrix(spectrum, seed=0):
    """Symmetric matrix with these eigenvalues."""
    g = torch.Generator().manual_seed(seed)
    n = len(spectrum)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))
    return (q * spectrum) @ q.T


def linear(a):
    return lambda x: x @ a.T


@functools.cache
def digits_jacobians(sigma, count=300):
    """Jacobians (count, 64, 64) of EDM's denoiser of the digits at this noise level, at samples of
    the noisy data."""
    problem, path = ode.problems.digits(std=0.15), ode.paths.EDM()
    g = torch.Generator().manual_seed(1)
    x = problem.sample(count, seed=3)
    x = (x + sigma * torch.randn(x.shape, generator=g, dtype=x.dtype)).requires_grad_()
    out = problem.data(x, path, sigma).flatten(1).sum(0)
    return torch.stack([torch.autograd.grad(o, x, retain_graph=True)[0].flatten(1) for o in out], 1)


def on_digits(estimator, sigma, trials, count=300):
    """(values (count trials, K), traces (count trials,)): independent trials at every sample, with
    its Jacobian."""
    jacobians = digits_jacobians(sigma, count)
    x = jacobians.new_zeros(count * trials, 64)
    with torch.no_grad():
        _, values = begin(estimator, x)(
            lambda y: (y.view(count, trials, 64) @ jacobians.mT).view_as(y), x
        )
    return values, jacobians.diagonal(0, 1, 2).sum(1).repeat_interleave(trials)


def estimates(estimator, f, x, trials, seed=0):
    """Values (B trials, K): independent trials for every sample of x, one sample after the
    other."""
    many = x.repeat_interleave(trials, 0)
    with torch.no_grad():
        return estimator.begin(many, keys(len(many), seed))(f, many)[1]


class CubeInNumpy(torch.autograd.Function):
    """x^3 outside of torch: no transform of torch.func gets through."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 3)

    @staticmethod
    def backward(ctx, *grads):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(3 * x.detach().numpy() ** 2 * grads[0].detach().numpy())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        return self.layer(x, x, x, need_weights=False)[0]


class Counting(nn.Module):
    """Looks at its data on the host and changes a buffer in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        self.calls += 1
        return torch.tanh(self.layer(x)) if self.calls.item() > 0 else x


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6))

    def forward(self, x):
        return checkpoint(self.block, x, use_reentrant=False)


def convolutional():
    norm = nn.BatchNorm2d(8)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        norm,
        nn.SiLU(),
        nn.Dropout(0.5),
        nn.Conv2d(8, 3, 3, padding=1),
    ]
    return nn.Sequential(*layers).eval()


HARD = {
    "a Function in NumPy": (lambda: CubeInNumpy.apply, (6,)),
    "attention": (Attention, (5, 6)),
    "batch norm and dropout in eval": (convolutional, (3, 5, 4)),
    "checkpointed": (Checkpointed, (6,)),
    "in place, and the host looks": (Counting, (2, 6)),
}
