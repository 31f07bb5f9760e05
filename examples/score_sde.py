"""The score SDEs of Song et al. 2021, VP, VE and sub-VP, each sampled in five ways and scored by
its flow.

python examples/score_sde.py [--steps 3000] [--out score_sde.png]

The data are eight Gaussians, so that their density is known. Prints the sliced distance of samples
to the data, after few and after many network calls, and of the data to themselves; then the
log-density of held-out points beside the exact one: what is missing is the Kullback-Leibler
divergence of the model. The picture shows what the samplers of the VP SDE reach in few calls."""

import argparse
import math

import torch
from networks import MLP
from toys import picture, sliced_distance, train

import odesolve as ode
from odesolve.objectives import Matching, times

FEW, MANY = 16, 40
PATHS = {"VP": ode.paths.VP(), "VE": ode.paths.VE(0.01, 10.0), "sub-VP": ode.paths.SubVP()}
ANGLE = 0.25 * math.pi * torch.arange(8)
EXACT = ode.problems.mixture([1.0] * 8, 1.4 * torch.stack([ANGLE.cos(), ANGLE.sin()], 1), std=0.2)


def samples(model: ode.Model, noise: torch.Tensor, n: int) -> dict[str, torch.Tensor]:
    """What every sampler makes of the noise in n calls of the network."""
    return {
        "reverse SDE": ode.sample(model, noise, "euler_maruyama", n, "uniform", seed=0),
        "predictor-corrector": ode.sample(
            model, noise, "predictor_corrector", n // 2, "uniform", seed=0
        ),
        "flow, DPM++ 2M": ode.sample(model, noise, "dpmpp_2m", n, "vp_time"),
        "flow, default": ode.sample(model, noise, steps=n),
    }


@torch.no_grad()
def report(
    name: str, model: ode.Model, noise: torch.Tensor, test: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Print how far samples are from the data and what the flow says of them; returns samples of
    few calls."""
    few, many, path = samples(model, noise, FEW), samples(model, noise, MANY), model.path
    for sampler, x in few.items():
        far = f"{sliced_distance(x, test):9.3f} {sliced_distance(many[sampler], test):9.3f}"
        print(f"{name:7} {sampler:20} {far}")
    solved = ode.solve(
        model, noise * path.prior_std, (path.t_noise, path.t_min), rtol=1e-3, atol=1e-3
    )
    calls = f"({solved.nfe.double().mean():.0f} calls)"
    print(f"{name:7} {'flow, adaptive':20} {calls:>9} {sliced_distance(solved.last, test):9.3f}")
    found, exact = ode.log_prob(model, test[:1000]).value, EXACT.log_prob(test[:1000].double())
    told = [f"{v.mean():.3f} +- {v.std() / len(v) ** 0.5:.3f}" for v in (found, exact - found)]
    print(f"{name:7} log-density {told[0]} nats, {told[1]} below the exact one")
    return few | {"flow, adaptive": solved.last}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000, help="of each training (default 3000)")
    parser.add_argument("--out", default="score_sde.png")
    given = parser.parse_args()
    points = min(2000, 50 * given.steps)
    data, test, *others = (
        EXACT.sample(n, seed=k).float() for k, n in enumerate((100_000, *[points] * 11))
    )
    floor = torch.tensor([sliced_distance(other, test) for other in others])
    print(f"{'path':7} {'sampler':20} {FEW:3} calls {MANY:3} calls: sliced distance to the data")
    print(f"{'':7} {'data':20} {floor.min():9.3f} to {floor.max():.3f} in ten draws")
    panels = {"data": test}
    for name, path in PATHS.items():
        torch.manual_seed(0)
        # A noise network's small errors at much noise add up along the flow: with "noise" here
        # several times as much is missing.
        model = ode.Model(MLP(width=64), path, "edm", time="t", sigma_data=1.0)
        # lambda = sigma^2
        loss = Matching(model, weight="noise", times=times.Uniform(stratified=True))
        draw = lambda g: data[torch.randint(len(data), (1024,), generator=g)]  # noqa: E731
        train(loss, draw, model.net.parameters(), given.steps, rate=1e-2)
        few = report(name, model, torch.randn(points, 2), test)
        panels |= few if name == "VP" else {}
    picture(panels, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
