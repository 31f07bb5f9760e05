"""Flow matching on a set of points: with noise as it comes, and with noise that minibatch optimal
transport matched.

python examples/flow_matching.py [--set checkerboard] [--steps 4000] [--out flow_matching.png]

Prints for both how straight the paths are (0 is straight) and how far samples of few Euler steps
end from the data. Writes a picture.
"""

import argparse

import torch
from networks import MLP
from toys import SETS, picture, sliced_distance, train

import odesolve as ode
from odesolve.objectives import Matching, OptimalTransport, straightness


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=SETS, default="checkerboard")
    parser.add_argument("--steps", type=int, default=4000, help="of training (default 4000)")
    parser.add_argument("--out", default="flow_matching.png")
    given = parser.parse_args()
    data, path = SETS[given.set], ode.paths.Linear()
    n = min(4000, 50 * given.steps)
    test, noise = data(n), torch.randn(n, 2)
    panels, lines = {"data": test}, {}
    for name, coupling in (("independent", None), ("optimal transport", OptimalTransport())):
        torch.manual_seed(0)
        net = MLP()
        model = ode.Model(net, path, "velocity")
        loss = train(
            Matching(model, coupling=coupling), lambda g: data(256), net.parameters(), given.steps
        )
        with torch.no_grad():
            far = {
                k: sliced_distance(ode.sample(model, noise, "euler", k, "uniform"), test)
                for k in (1, 2, 4, 50)
            }
            states = [s.x for s in ode.iterate(model, noise[:200], "euler", 50, "uniform")]
            panels[name] = ode.sample(model, noise, "heun", 50, "uniform")
        lines[name] = torch.stack([noise[:200], *states])
        told = ", ".join(f"{k} steps {d:.3f}" for k, d in far.items())
        bent = straightness(model, noise).value
        print(
            f"{name}: loss {loss:.3f}, straightness {bent:.4f}; sliced distance to the data "
            f"after {told}"
        )
    picture(panels, given.out, lines)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
