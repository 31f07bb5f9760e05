"""DiffFlow: a forward and a backward process that are both trained, with gradients that remember no
trajectory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from odesolve.adjoint.memory import holding
from odesolve.adjoint.pull import Sums, with_gradients
from odesolve.adjoint.targets import Arguments, GradientTargets, wanted
from odesolve.doors.annotations import takes
from odesolve.doors.brief import brief
from odesolve.doors.keywords import door
from odesolve.doors.words import fits_call
from odesolve.errors import OdesolveError
from odesolve.functions.steadiness import draws
from odesolve.kernels.dispatch import normal
from odesolve.noise.keys import Ids, fresh_seed, keys_of
from odesolve.noise.stream_numbers import START, STEPS
from odesolve.objectives.draws import check_data, column, keys_for
from odesolve.objectives.matching import Terms
from odesolve.sde import solve_sde
from odesolve.trace.linearised import check_shape

Net = Callable[[Tensor, Tensor], Tensor]
Level = float | Callable[[Tensor], Tensor]
Noise = Callable[[int], Tensor]


@brief
@dataclass(frozen=True)
class DiffFlowTerms(Terms):
    """``each`` (B,) is the loss in nats; ``bound`` (B,), without gradients, an upper bound of -log
    p_B(x) in expectation."""

    bound: Tensor = field(repr=False)


class DiffFlow:
    """Trains dx = f dt + g dW from data to noise, and its reverse dx = (f - g^2 s) dt + g dW, by
    the divergence of their paths.

    Zhang and Chen 2021, section 3: E[-log p_B(x_N) + sum_i |delta_i|^2 / 2] over trajectories of
    the forward process, delta_i being the noise that takes the backward process from x_{i+1} to
    x_i.

    Args:
        drift, score: f and s, functions (x, t) of states (B, ...) and times (B,); with the adjoint
            networks that draw nothing (no dropout).
        g: the noise of both processes, above 0: a number, or a function of times of any shape.
        times: t_0 < ... < t_N, from data to noise.
        std: deviation of the prior N(0, std^2) at t_N.
        adjoint: memory that does not grow with the steps: the stochastic adjoint (algorithm 2),
            which makes the trajectory again from its noise. Data and keys of the noise are all that
            is kept; on the way back there are 2 sqrt(N) states, and the activations of one step. It
            takes five evaluations of f and two of s per step, instead of one of each, which
            autograd would keep. Gradients are those of the steps, the same either way.
        params: parameters that get gradients, for functions that are no modules and use some at
            later times only.

    Raises OdesolveError for times that do not rise, and a g or std that is not above 0.
    """

    @door(
        "DiffFlow",
        drift=takes("x", "t"),
        score=takes("x", "t"),
        g=takes("t", instead=(int, float, Tensor)),
    )
    def __init__(
        self,
        drift: Net,
        score: Net,
        g: Level,
        times: Sequence[float] | Tensor,
        *,
        std: float = 1.0,
        adjoint: bool = True,
        params: Sequence[Tensor] | None = None,
    ):
        if not callable(drift) or not callable(score):
            raise OdesolveError(
                "drift or score cannot be called: give functions or modules of (x, t)"
            )
        t = torch.as_tensor(times, dtype=torch.float64).detach().cpu()
        if (
            t.dim() != 1
            or len(t) < 2
            or not bool((t.diff() > 0).all())
            or not bool(t.isfinite().all())
        ):
            raise OdesolveError(
                "times do not rise: give t_0 < ... < t_N from data to noise, such as "
                "torch.linspace(0, 1, 31)"
            )
        levels = torch.as_tensor(g(t) if callable(g) else g, dtype=torch.float64).expand(t.shape)
        if not bool((levels > 0).all()) or not std > 0:
            raise OdesolveError(
                f"g goes down to {float(levels.min()):.4g}, std={std}: give numbers above 0"
            )
        self.drift = drift
        self.score = score
        self.g = g
        self.std = std
        self.adjoint = adjoint
        self.params = params
        self.times = t.tolist()
        self.levels = levels.tolist()

    @property
    def steps(self) -> int:
        """N."""
        return len(self.times) - 1

    @fits_call
    @holding
    def __call__(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> DiffFlowTerms:
        """The loss of data x (B, ...).

        Args:
            noise: of the forward steps (N, B, ...), standard normal, instead of random noise.
            generator: of the noise; by default torch's own.

        Raises OdesolveError for data or noise of another shape, networks that return one, and
        dropout where the adjoint would draw it anew.
        """
        check_data(x)
        if self.adjoint and (draws(self.drift) or draws(self.score)):
            advice = "call net.eval(), or give adjoint=False"
            raise OdesolveError(
                f"a network has dropout in train mode, which the adjoint would draw anew: {advice}"
            )
        if noise is not None and noise.shape != (self.steps, *x.shape):
            raise OdesolveError(
                f"noise has shape {tuple(noise.shape)}: give {(self.steps, *x.shape)}, standard "
                "normal numbers for every step"
            )
        drawn: Noise = _Keyed(x, keys_for(x, generator)) if noise is None else noise.__getitem__
        way = _Adjoint(self, drawn)
        each = with_gradients(way, self._wanted(x, drawn), x) if self.adjoint else way.forward(x)[0]
        change = x.shape[1:].numel() * math.log(self.levels[-1] / self.levels[0])
        bound = each.detach() - way.spent + change
        return DiffFlowTerms(
            each.mean(), each, x.new_full((len(x),), self.times[-1], dtype=torch.float64), bound
        )

    def forward(self, i: int, x: Tensor, z: Tensor, f: Tensor | None = None) -> Tensor:
        """State i + 1 of the forward process from state i and its noise; ``f`` is the drift there,
        where it is known."""
        h = self.times[i + 1] - self.times[i]
        f = self._answer(self.drift, x, self.times[i]) if f is None else f
        return x + h * f + (self.levels[i] * h**0.5) * z

    def step(
        self,
        i: int,
        x: Tensor,
        z: Tensor,
        f: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """State i + 1, what the step adds to the loss (B,) (the last one with the prior's share),
        and the drift at its end."""
        t = self.times[i + 1]
        g = self.levels[i + 1]
        h = self.times[i + 1] - self.times[i]
        y = self.forward(i, x, z, f)
        f = self._answer(self.drift, y, t)
        delta = (x - y + h * (f - g**2 * self._answer(self.score, y, t))) / (g * h**0.5)
        cost = 0.5 * delta.square().flatten(1).sum(1)
        if i == self.steps - 1:
            dim = y.shape[1:].numel()
            constant = 0.5 * dim * math.log(2 * math.pi * self.std**2)
            cost = cost + 0.5 * (y / self.std).square().flatten(1).sum(1) + constant
        return y, cost, f

    def _answer(self, net: Net, x: Tensor, t: float) -> Tensor:
        out = net(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device))
        check_shape(out, x)
        return out

    def _wanted(self, x: Tensor, noise: Noise) -> GradientTargets:
        nets = [net for net in (self.drift, self.score) if isinstance(net, nn.Module)]
        module = nn.ModuleList(nets) if len(nets) == 2 else None
        held = [p for net in nets for p in net.parameters()]
        return wanted(
            module, lambda ys, args: self.step(0, ys[0], noise(0))[1], [x], (), self.params, held
        )

    def backward_drift(self, t: Tensor, x: Tensor) -> Tensor:
        """f - g^2 s at times (B, 1, ..., 1), for ``ode.solve_sde`` with falling times, as
        ``sample`` solves it."""
        return self._reverse(t, x, 1.0)

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """f - g^2 s / 2 at times (B, 1, ..., 1), for ``ode.solve`` and ``ode.log_prob``.

        It carries the densities of the process where s is the score of all of them.
        """
        return self._reverse(t, x, 0.5)

    def _reverse(self, t: Tensor, x: Tensor, share: float) -> Tensor:
        at = t.reshape(-1).expand(len(x))
        g = column(self.g(at), x) if callable(self.g) else self.g
        return self.drift(x, at) - share * g**2 * self.score(x, at)

    def sample(
        self,
        shape: Sequence[int],
        *,
        seed: int | torch.Generator | None = None,
        ids: Ids | None = None,
        solver: str = "euler_maruyama",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Samples (B, ...) of the backward process on ``times``, without gradients; NaN where one
        is not finite.

        Args:
            shape: of all, (B, ...).
            seed, ids: of the noise, as for ``ode.sample``: a sample does not depend on the batch. A
                generator gives a seed.
            solver: of ``ode.solve_sde``; by default the steps that were trained.
            dtype, device: of the samples.
        """
        if isinstance(seed, torch.Generator):
            seed = int(torch.randint(2**62, (), generator=seed, device=seed.device))
        seed = fresh_seed() if seed is None else seed
        x = torch.empty(tuple(shape), dtype=dtype, device=device)
        normal(x, keys_of(len(x), seed, ids, x.device), START)
        solution = solve_sde(
            self.backward_drift,
            self.g,
            self.std * x,
            self.times[::-1],
            solver,
            1,
            seed=seed,
            ids=ids,
            noise="additive",
        )
        return solution.y[-1]


class _Keyed:
    """The noise of every step (B, ...), made from keys wherever it is asked for."""

    def __init__(self, x: Tensor, keys: Tensor):
        self.like = x.detach()
        self.keys = keys

    def __call__(self, i: int) -> Tensor:
        z = torch.empty_like(self.like, memory_format=torch.contiguous_format)
        normal(z, self.keys, STEPS + i)
        return z


@dataclass
class _Adjoint:
    """The loss of a trajectory, and its way back: states are made again from those of every
    sqrt(N)-th step.

    Rejected: every state kept, as the paper has it, for one evaluation of f a step less on the way
    back."""

    flow: DiffFlow
    noise: Noise

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = y0
        f = None
        each = torch.zeros(len(y0), dtype=y0.dtype, device=y0.device)
        # |noise|^2 / 2: what log p_F of the steps is, but for constants
        self.spent = torch.zeros_like(each)
        for i in range(self.flow.steps):
            z = self.noise(i)
            self.spent += 0.5 * z.square().flatten(1).sum(1)
            x, cost, f = self.flow.step(i, x, z, f)
            each = each + cost
        return each, (y0,)

    def backward(
        self,
        y: Tensor,
        kept: tuple[Tensor, ...],
        grad: Tensor,
        sums: Sums,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Zhang and Chen 2021, algorithm 2, but for delta_N in its line 2: line 5 adds that
        again."""
        n = self.flow.steps
        length = math.isqrt(n - 1) + 1
        starts = [kept[0].detach()]
        for first in range(0, n - length, length):
            starts.append(self._states(starts[-1], first, first + length)[-1])
        a: Tensor | None = None
        for part in range(len(starts) - 1, -1, -1):
            first = part * length
            states = self._states(starts.pop(), first, min(first + length, n) - 1)
            for i in range(first + len(states) - 1, first - 1, -1):
                _, (a,), grads = sums.products(self._move(i), [states.pop()], [a, grad])
                sums.add(grads)
        return a, None

    def _states(self, x: Tensor, first: int, stop: int) -> list[Tensor]:
        """States ``first`` to ``stop`` of the trajectory through x."""
        states = [x]
        for i in range(first, stop):
            states.append(self.flow.forward(i, states[-1], self.noise(i)))
        return states

    def _move(self, i: int) -> Callable[[Sequence[Tensor], Arguments], Sequence[Tensor]]:
        return lambda ys, args: self.flow.step(i, ys[0], self.noise(i))[:2]
