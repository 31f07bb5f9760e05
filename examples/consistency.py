"""Consistency models: the data end of a flow in one evaluation, distilled from a diffusion model
and trained from data alone.

python examples/consistency.py [--set checkerboard] [--steps 4000] [--out consistency.png]

Prints the sliced distance to the data of an EDM model in many and few steps, and of both
consistency models in 1, 2 and 4 steps, beside that of data from data. The student takes half as
many steps of training as its teacher, from data alone 1.5 times as many. Writes a picture.
"""

import argparse

import torch
from networks import MLP
from toys import SETS, picture, sliced_distance, train

import odesolve as ode
from odesolve.objectives import Consistency, ConsistencyDistillation, ConsistencyTraining, Matching
from odesolve.objectives.consistency import doubling, inverse_gap, log_normal, pseudo_huber
from odesolve.training import EMA, fit

# The sets have unit spread, which noise of 10 hides: 80, for images, adds levels at which there is
# nothing to learn.
PATH = ode.paths.EDM(sigma_max=10.0)
TIMES = {1: (10.0,), 2: (10.0, 0.4), 4: (10.0, 1.5, 0.5, 0.2)}
# Song and Dhariwal 2024
HOW = {"distance": pseudo_huber(0.03), "weight": inverse_gap, "chances": log_normal()}


def distilled(teacher: ode.Model, data, steps: int) -> Consistency:
    """A student that begins as its teacher, with an average of its weights as the target, which is
    also what is kept."""
    net = MLP()
    net.load_state_dict(teacher.net.state_dict())
    ema = EMA(net, 0.98)
    of = lambda net: Consistency(ode.Model(net, PATH, "edm", sigma_data=teacher.reading.sigma_data))  # noqa: E731
    kept = of(ema.module)
    objective = ConsistencyDistillation(of(net), teacher, points=18, target=kept, **HOW)
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    fit(
        objective,
        lambda g: data(256),
        steps,
        optimiser=adam,
        schedule=lambda k: 1 - k / steps,
        ema=ema,
    )
    return kept


def trained(sigma_data: float, data, steps: int) -> Consistency:
    """From data alone, on a grid whose steps double from 10 to 160."""
    net = MLP()
    model = Consistency(ode.Model(net, PATH, "edm", sigma_data=sigma_data))
    objective = ConsistencyTraining(model, lambda k: doubling(k, steps, last=160), **HOW)
    train(objective, lambda g: data(256), net.parameters(), steps, 1e-3)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=SETS, default="checkerboard")
    parser.add_argument(
        "--steps", type=int, default=4000, help="of the teacher's training (default 4000)"
    )
    parser.add_argument("--out", default="consistency.png")
    given = parser.parse_args()
    torch.manual_seed(0)
    data = SETS[given.set]
    points = min(6000, 50 * given.steps)
    test, noise = data(points), torch.randn(points, 2)
    teacher = ode.Model(MLP(), PATH, "edm", sigma_data=float(test.std()))
    train(Matching(teacher), lambda g: data(256), teacher.net.parameters(), given.steps)
    students = {
        "distilled": distilled(teacher, data, given.steps // 2),
        "trained from data": trained(float(test.std()), data, 3 * given.steps // 2),
    }
    with torch.no_grad():
        whole = ode.sample(teacher, noise, "heun_edm", 40, "karras")
        few = {
            n: ode.sample(teacher, noise, "ddim", n, ode.grids.Karras(final=False)) for n in TIMES
        }
    drawn = {
        name: {n: s.sample(noise, t, seed=0) for n, t in TIMES.items()}
        for name, s in students.items()
    }
    print(
        "sliced distance to the data: teacher in 40 steps of Heun "
        f"{sliced_distance(whole, test):.3f}, "
        f"data from data {sliced_distance(data(points), test):.3f}"
    )
    print(f"{'steps':20}" + "".join(f"{n:8}" for n in TIMES))
    for name, ends in {"teacher, DDIM": few, **drawn}.items():
        print(f"{name:20}" + "".join(f"{sliced_distance(x, test):8.3f}" for x in ends.values()))
    panels = {"teacher, 40 steps": whole, "teacher, 1 step": few[1]}
    for name, ends in drawn.items():
        panels |= {f"{name}, {n} step{'s' * (n > 1)}": ends[n] for n in (1, 2)}
    picture(panels, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
