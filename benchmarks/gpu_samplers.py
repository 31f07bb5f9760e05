"""Whole samplers on a GPU, for gpu.py: that nothing in them waits for the device, and a captured
step beside eager loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import odesolve as ode
from odesolve import paths
from odesolve.integrations.diffusers import OdesolveScheduler

SHAPE, STEPS = (1, 4, 64, 64), 20
PATH = paths.Discrete.stable_diffusion()
FASTER = 2.5  # a captured step against an eager loop, at batch 1
COUNTED = ("ddim", "dpmpp_2m", "unipc_2", "dpmpp_2m_sde")


class Net(nn.Module):
    """A residual network of 7 M parameters whose kernels are short, as those of a small network at
    batch 1 are."""

    def __init__(self, width: int = 160, blocks: int = 15):
        super().__init__()
        self.first, self.last = (
            nn.Conv2d(SHAPE[1], width, 3, padding=1),
            nn.Conv2d(width, SHAPE[1], 3, padding=1),
        )
        self.time = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))

        def body() -> nn.Module:
            convolution = nn.Conv2d(width, width, 3, padding=1)
            return nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), convolution)

        self.blocks = nn.ModuleList(nn.Sequential(body(), body()) for _ in range(blocks))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """What a model predicts of x at the times t (B,)."""
        h = self.first(x) + self.time(t.to(x.dtype).reshape(-1, 1) / 1000.0)[:, :, None, None]
        for block in self.blocks:
            h = h + block(h)
        return self.last(h)


def waits(device: str) -> Iterator[tuple[str, bool]]:
    """Every solver's prepared sampler, with PyTorch told to raise where it would wait for the
    device."""
    answer, x = torch.randn(2, 4, 16, 16, device=device), torch.randn(2, 4, 16, 16, device=device)
    model = ode.Model(lambda x, t: answer, PATH, "noise")
    for name in ode.solvers():
        sampler = ode.Sampler(model, name, 6)
        want = sampler(x, seed=0)  # uploads its coefficients, compiles
        why = _raised(lambda call=sampler: call(x, seed=1))
        yield f"{name} never waits for the device{why}", not why
        yield f"{name} gives the same twice", torch.equal(sampler(x, seed=0), want)


def _raised(call: Callable) -> str:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as e:
        return f" ({str(e).splitlines()[0]})"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def launches(device: str) -> Iterator[tuple[str, bool]]:
    """A step of a solver with one evaluation starts one kernel, beside those of the network: here
    none."""
    answer, x = torch.randn(SHAPE, device=device), torch.randn(SHAPE, device=device)
    model = ode.Model(lambda x, t: answer, PATH, "noise")
    for name in COUNTED:
        few, many = (_kernels(ode.Sampler(model, name, steps), x) for steps in (10, 20))
        more = len(many) - len(few)
        yield f"{name}: {more / 10:g} kernels a step ({', '.join(sorted(set(many)))})", more == 10


def _kernels(sampler: ode.Sampler, x: Tensor) -> list[str]:
    sampler(x, seed=0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        sampler(x, seed=0)
        torch.cuda.synchronize()
    names = [e.name for e in seen.events() if e.device_type != torch.autograd.DeviceType.CPU]
    return [
        n
        for n in names
        if not n.lower().startswith(("mem", "cuda", "context")) and "sync" not in n.lower()
    ]


def graph_follows(device: str) -> Iterator[tuple[str, bool]]:
    """A captured step and the plain loop end in the same state, for every solver; and there is a
    captured step at all."""
    model, x = ode.Model(Net().to(device).eval(), PATH, "noise"), torch.randn(SHAPE, device=device)
    executor = ode.Graph(model, torch.zeros_like(x), steps=64)
    for name in COUNTED:
        with torch.no_grad():
            got, want = (
                ode.Sampler(model, name, 8, executor=e)(x, seed=0) for e in (executor, None)
            )
        yield (
            f"{name}: a captured step equals the loop",
            bool((got - want).abs().max() <= 1e-3 * want.abs().max()),
        )
    yield f"a step was captured ({executor.reason or 'it was'})", executor.reason is None


def equal_to_the_cpu(device: str) -> Iterator[tuple[str, bool]]:
    """What adapts its steps, follows a Brownian path or walks in chains does on the device what it
    does on the CPU."""
    y0 = torch.randn(64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rates = torch.linspace(0.5, 40.0, 64, dtype=torch.float64)[:, None]
    relax = lambda t, y, rate: rate * (torch.cos(t) - y)  # noqa: E731
    here, there = (
        ode.solve(relax, y0.to(d), (0.0, 2.0), args=(rates.to(d),), rtol=1e-7)
        for d in ("cpu", device)
    )
    yield "an adaptive solve takes the same steps", torch.equal(here.nfe, there.nfe.cpu())
    yield "an adaptive solve ends in the same states", _near(here.last, there.last, 1e-12)
    for solver in ("shark", "euler_maruyama"):
        options = {"solver": solver, "noise": "additive", "steps": 20, "seed": 0, "tree": True}
        here, there = (
            ode.solve_sde(lambda t, y: -y, 0.5, y0.to(d), **options) for d in ("cpu", device)
        )
        yield f"{solver} follows the same path", _near(here.last, there.last, 1e-6)
    model, x = ode.Model(lambda x, t: torch.tanh(x), PATH, "noise"), torch.randn(2, 4, 16, 16)
    here, there = (
        ode.sample(model, x.to(d), "dpmpp_2m_sde(tree)", 10, seed=0) for d in ("cpu", device)
    )
    yield "a plan follows the same path", _near(here, there, 1e-4)
    log_prob = lambda x: -0.5 * (x**2).sum(1)  # noqa: E731
    here, there = (ode.mala(log_prob, y0.to(d), 0.5, 20, seed=0) for d in ("cpu", device))
    yield "MALA accepts the same", torch.equal(here.acceptance, there.acceptance.cpu())


def likelihoods_equal_to_the_cpu(device: str) -> Iterator[tuple[str, bool]]:
    """Log-densities of every kind, and gradients in every mode."""
    problem = ode.problems.mixture([0.5, 0.5], [[1.0] * 16, [-1.0] * 16], std=0.4)
    model, x = problem.model(paths.EDM(), "edm"), problem.sample(8, seed=0)
    for options in (
        {"trace": "exact"},
        {"trace": "exact", "divergence": "along"},
        {"trace": "xtrace", "products": 12},
    ):
        here, there = (ode.log_prob(model, x.to(d), seed=0, **options) for d in ("cpu", device))
        yield f"log-densities {options} agree", _near(here.value, there.value, 1e-5)
    here, there = (
        ode.log_prob(model, x.to(d), of="plan", solver="ddim", steps=8) for d in ("cpu", device)
    )
    yield "densities of a plan agree", _near(here.value, there.value, 1e-9)
    here, there = (ode.elbo(model, x.to(d), of="sde", seed=0).value for d in ("cpu", device))
    yield "bounds agree", _near(here, there, 1e-5)
    for adjoint in ("backprop", "continuous", "reversible"):
        steps = None if adjoint == "continuous" else 20
        found = []
        for d in ("cpu", device):
            y = x.to(d).requires_grad_()
            with torch.enable_grad():
                sol = ode.solve(
                    lambda t, y: torch.sin(y), y, solver="dopri5", steps=steps, adjoint=adjoint
                )
                found += torch.autograd.grad(sol.last.square().sum(), y)
        yield f"gradients by {adjoint} agree", _near(found[0], found[1], 1e-8)


def pipelines(device: str) -> Iterator[tuple[str, bool]]:
    """The diffusers scheduler in a loop: the CPU's samples, and after the first step no wait for
    the device."""
    x, said = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    for solver in ("dpmpp_2m", "unipc_2", "heun_edm", "dpmpp_2m_sde"):
        here, _ = _looped(solver, x, said, lambda run: run() or "")
        there, why = _looped(solver, x.to(device), said.to(device), _raised)
        yield f"a pipeline's {solver} never waits for the device{why}", not why
        yield f"a pipeline's {solver} is the CPU's", _near(here, there, 1e-4)


def _looped(
    solver: str, x: Tensor, said: Tensor, watched: Callable[[Callable], str]
) -> tuple[Tensor, str]:
    """The last sample of a loop on a scheduler, and what ``watched`` says of all steps but the
    first."""
    scheduler = OdesolveScheduler(solver=solver, beta_schedule="scaled_linear")
    scheduler.generator = torch.Generator().manual_seed(0)
    scheduler.set_timesteps(8, device=x.device)
    first, *others = scheduler.timesteps
    samples = [scheduler.step(said, first, x, return_dict=False)[0]]

    def rest() -> None:
        for t in others:
            samples.append(scheduler.step(said, t, samples[-1], return_dict=False)[0])

    why = watched(rest)
    return samples[-1], why


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b.cpu()).abs().max() <= tolerance * a.abs().max())


def contenders(device: str) -> dict[str, Callable]:
    """DPM-Solver++ 2M over ``STEPS`` steps with a network of less than 10 M parameters at batch
    1."""
    net = Net().to(device).eval().requires_grad_(False)
    model, x = ode.Model(net, PATH, "noise"), torch.randn(SHAPE, device=device)
    executor = ode.Graph(model, torch.zeros_like(x), steps=STEPS)
    captured = ode.Sampler(model, "dpmpp_2m", STEPS, "karras", executor=executor)
    loop = ode.Sampler(model, "dpmpp_2m", STEPS, "karras")
    return {
        "odesolve": lambda: captured(x, seed=0),
        "odesolve's loop": lambda: loop(x, seed=0),
        "diffusers": _diffusers(net, x),
    }


def _diffusers(net: nn.Module, x: Tensor) -> Callable:
    """The loop of a diffusers pipeline: a scheduler that is asked for every step."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, use_karras_sigmas=True
    )

    @torch.no_grad()
    def run() -> Tensor:
        scheduler.set_timesteps(STEPS, device=x.device)
        state = x * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            inputs = scheduler.scale_model_input(state, t)
            state = scheduler.step(net(inputs, t.expand(len(x))), t, state, return_dict=False)[0]
        return state

    return run
