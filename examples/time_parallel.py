"""A hundred steps in a few rounds: one sample of a small network, by the loop and many steps at
once, and what a profile says.

python examples/time_parallel.py [--steps 100] [--tolerance 1e-3]
"""

import argparse
import time

import torch

import odesolve as ode


class Network(torch.nn.Module):
    """Stands for yours: small enough that one call on a hundred states takes hardly longer than on
    one."""

    def __init__(self, size: int = 64, width: int = 128):
        super().__init__()
        layers = [torch.nn.Linear(size + 1, width), torch.nn.SiLU(), torch.nn.Linear(width, size)]
        self.net = torch.nn.Sequential(*layers)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.net(torch.cat([x, t[:, None]], 1))


def fastest(call, rounds: int = 5):
    """What a call returns, and the milliseconds of the fastest of some."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        out = call()
        best = min(best, time.perf_counter() - start)
    return out, 1e3 * best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    given = parser.parse_args()
    torch.manual_seed(0)
    model = ode.Model(Network(), ode.paths.VP(), "noise")
    common = {"solver": "ddim", "steps": given.steps, "grid": "uniform", "seed": 0}
    loop, ms = fastest(lambda: ode.sample(model, (1, 64), **common))
    print(f"the loop: {given.steps} calls one after another, {ms:.1f} ms")
    executors = {
        "Window": ode.Window(tolerance=given.tolerance),
        "Window, exact": ode.Window(exact=True),
        "Parareal": ode.Parareal(tolerance=given.tolerance),
    }
    for name, executor in executors.items():
        x, ms = fastest(
            lambda executor=executor: ode.sample(model, (1, 64), executor=executor, **common)
        )
        error = float((x - loop).norm() / loop.norm())
        print(f"{name}: {executor.report}, {ms:.1f} ms, {error:.0e} from the loop")
    found = ode.profile(
        model, ["ddim"], given.steps, ["uniform"], noise=(8, 64), executor=ode.Window()
    )
    print(found.advice())


if __name__ == "__main__":
    main()
