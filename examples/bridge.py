"""From eight Gaussians to two moons: score and flow matching of Schroedinger bridges, sampled by
the flow and by the SDE.

python examples/bridge.py [--sigma 0.5] [--steps 4000] [--out bridge.png]

The source need not be noise. One training gives a velocity and a score, and with them every
diffusion between the same ends."""

import argparse

import torch
from networks import MLP
from toys import eight_gaussians, moons, picture, sliced_distance, train

import odesolve as ode
from odesolve.objectives import ScoreAndFlow, Sinkhorn, bridges


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sigma", type=float, default=0.5, help="diffusion of the bridges (default 0.5)"
    )
    parser.add_argument("--steps", type=int, default=4000, help="of training (default 4000)")
    parser.add_argument("--out", default="bridge.png")
    given = parser.parse_args()
    torch.manual_seed(0)
    path, flow, score = ode.paths.Linear(), MLP(), MLP()
    velocity, gradient = ode.Model(flow, path, "velocity"), ode.Model(score, path, "score")
    objective = ScoreAndFlow(velocity, gradient, given.sigma, coupling=Sinkhorn(2 * given.sigma**2))
    parameters = [*flow.parameters(), *score.parameters()]
    loss = train(objective, lambda g: (moons(256), eight_gaussians(256)), parameters, given.steps)
    n = min(4000, 50 * given.steps)
    source, test = eight_gaussians(n), moons(n)
    with torch.no_grad():
        by_flow = ode.sample(velocity, state=source, solver="heun", steps=50, grid="uniform")
        f, g = bridges.sde(velocity, given.sigma, gradient)
        times = (1.0 - 1e-3, 1e-3)
        by_sde = ode.solve_sde(f, g, source, t=times, noise="additive", steps=100, seed=0).last
        states = [
            s.x
            for s in ode.iterate(
                velocity, state=source[:200], solver="heun", steps=50, grid="uniform"
            )
        ]
    print(
        f"loss {loss:.3f}; sliced distance to the moons: flow "
        f"{sliced_distance(by_flow, test):.3f}, "
        f"SDE {sliced_distance(by_sde, test):.3f}"
    )
    panels = {"source": source, "by the flow": by_flow, "by the SDE": by_sde, "data": test}
    picture(panels, given.out, {"by the flow": torch.stack([source[:200], *states])})
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
