"""One step where others take many: reflow of a flow-matching model, and MeanFlow from data alone.

python examples/few_steps.py [--set moons] [--steps 3000] [--out few_steps.png]

Prints straightness round by round, and how far samples of one Euler step are from the data; for
MeanFlow how far those of one and two steps are from the data and from the flow's. Writes a picture
of one step each."""

import argparse

import torch
from networks import MLP
from toys import SETS, picture, sliced_distance, train

import odesolve as ode
from odesolve.objectives import FlowMap, Matching, MeanFlow, reflow, straightness


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=SETS, default="moons")
    parser.add_argument("--steps", type=int, default=3000, help="of each training (default 3000)")
    parser.add_argument("--out", default="few_steps.png")
    given = parser.parse_args()
    torch.manual_seed(0)
    data, path = SETS[given.set], ode.paths.Linear()
    n = min(4000, 50 * given.steps)
    test, noise = data(n), torch.randn(n, 2)

    def fit(before, pairs, starts):
        """A model of the pairs, from the weights of the one before."""
        net = MLP()
        net.load_state_dict(before.net.state_dict())
        model = ode.Model(net, path, "velocity")

        def batch(generator):
            rows = torch.randint(len(pairs), (256,))
            return pairs[rows], starts[rows]

        train(
            lambda x, z, **given: Matching(model)(x, noise=z, **given),
            batch,
            net.parameters(),
            given.steps,
        )
        return model

    first = ode.Model(MLP(), path, "velocity")
    train(Matching(first), lambda g: data(256), first.net.parameters(), given.steps)
    rounds = reflow(first, fit, lambda k: torch.randn(5 * n, 2), rounds=2, solver="heun", steps=50)
    panels = {"data": test}
    for name, model in zip(
        ("flow", "reflow", "reflow twice"), (first, *(r.model for r in rounds)), strict=True
    ):
        bent = straightness(model, noise)
        panels[name] = ode.sample(model, noise, "euler", 1, "uniform").detach()
        far = sliced_distance(panels[name], test)
        print(
            f"{name}: straightness {bent.value:.4f} +- {bent.stderr:.4f}, one step ends "
            f"{far:.3f} from the data"
        )
    net = MLP(times=2)
    carried = FlowMap(net, path)
    train(MeanFlow(carried), lambda g: data(256), net.parameters(), 2 * given.steps)
    with torch.no_grad():
        whole = ode.sample(first, noise, "heun", 50, "uniform")
        for steps in (1, 2):
            x = ode.sample(carried.model, noise, "flow_map", steps, "uniform")
            panels.setdefault("MeanFlow", x)
            print(
                f"MeanFlow: {steps} of its steps end {sliced_distance(x, test):.3f} from the "
                "data, "
                f"{sliced_distance(x, whole):.3f} from the flow in 50 steps"
            )
    print(
        f"the flow in 50 steps of Heun: {sliced_distance(whole, test):.3f}; data from data: "
        f"{sliced_distance(data(n), test):.3f}"
    )
    picture(panels, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
