"""A noise-conditional score network, trained at ten levels of noise and sampled by annealed
Langevin dynamics.

python examples/ncsn.py [--set checkerboard] [--steps 3000] [--out ncsn.png]

Song and Ermon 2019 (algorithm 1; levels and the form s = f / sigma after Song and Ermon 2020), with
the last denoising step of Jolicoeur-Martineau et al. 2021. Prints how far the samples are from the
data: their sliced distance, which sees the shares of the parts, and their mean distance to the
nearest of so many data, which sees the noise that is left. Plain Langevin dynamics at the smallest
level, for as long, keeps the shares that it starts with: those of standard normal noise are wrong
on the checkerboard and the moons, and right by symmetry on the eight Gaussians. Writes a picture.
"""

import argparse

import torch
from networks import MLP
from toys import SETS, picture, sliced_distance, train

import odesolve as ode
from odesolve.objectives import Levels, ncsn

EACH, STEP = 30, 0.1  # Langevin steps at a level, and their size in units of sigma^2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=SETS, default="checkerboard")
    parser.add_argument("--steps", type=int, default=3000, help="of training (default 3000)")
    parser.add_argument("--out", default="ncsn.png")
    given = parser.parse_args()
    torch.manual_seed(0)
    data, path = SETS[given.set], ode.paths.EDM()  # its time is the level
    levels = Levels.geometric(0.05, 5.0, 10)  # from the finest parts of the data to their diameter
    model = ode.Model(MLP(width=64), path, "noise", time="c_noise", input_scale="unit")
    loss = train(
        ncsn(model, levels), lambda g: data(512), model.net.parameters(), given.steps, rate=1e-2
    )
    points = min(3000, 50 * given.steps)
    tests, noise = [data(points) for _ in range(5)], torch.randn(points, 2)
    solver, low, calls = (
        f"annealed_langevin(each={EACH},step={STEP})",
        levels.ratios[-1],
        EACH * len(levels.ratios),
    )
    panels = {"data": data(points)}
    with torch.no_grad():
        panels["annealed"] = ode.sample(model, noise, solver, grid=levels.ratios, seed=0)
        panels["annealed, denoised"] = ode.sample(
            model, noise, solver, grid=[*levels.ratios, 0.0], seed=0
        )
        panels["plain Langevin"] = ode.langevin(
            lambda x: model.score(x, low), noise, STEP * low**2, calls, seed=0
        )
    print(f"loss {loss:.3f}; {calls} network calls, with denoising one more")
    for name, x in panels.items():
        far = sum(sliced_distance(x, test) for test in tests) / len(tests)
        nearest = torch.cdist(x, tests[0]).amin(1).mean()
        print(f"{name:18} sliced distance {far:.3f}, to the nearest {nearest:.4f}")
    picture(panels, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
