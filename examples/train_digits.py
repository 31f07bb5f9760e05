"""Train a U-Net on scikit-learn's handwritten digits as DDPM, EDM or flow matching, then sample and score it.

python examples/train_digits.py [--system flow] [--minutes 1.5] [--steps 3000] [--out digits.png]

Writes a picture of real and generated digits. Prints the Frechet distance of generated digits to held-out ones in the first 20
principal components of the training images, beside that of training digits; and the log-density of held-out images.
"""

import argparse
import time

import torch
from digits import FEATURES, HELD_OUT, LEVELS, Batches, Frechet, load, picture, spread
from networks import UNet

import odesolve as ode
from odesolve.objectives import Matching
from odesolve.training import EMA, Power, fit


def model_for(system: str, net: torch.nn.Module, std: float) -> ode.Model:
    """The path, the prediction and the time that each system trains with."""
    if system == "ddpm":
        return ode.Model(net, ode.paths.Discrete.ddpm(), "noise", time="t")
    if system == "edm":
        return ode.Model(net, ode.paths.EDM(), "edm", sigma_data=std)
    return ode.Model(net, ode.paths.Linear(), "velocity")


def train(model: ode.Model, images: torch.Tensor, steps: int, minutes: float, batch: int) -> tuple[EMA, int, float]:
    """Adam on fresh batches of dequantised images until steps or minutes are over: average, steps done, last losses."""
    generator = torch.Generator().manual_seed(0)
    ema, end = EMA(model.net, Power.of_width(0.1)), time.monotonic() + 60 * minutes
    history = fit(
        Matching(model),
        Batches(images, batch),
        steps,
        optimiser=torch.optim.Adam(model.net.parameters(), 2e-3, betas=(0.9, 0.99), fused=True),
        ema=ema,
        warmup=min(100, steps // 5),
        schedule=lambda k: max(1.0, k / 500) ** -0.5,
        clip=1.0,
        generator=generator,
        after=lambda done, terms: time.monotonic() > end,
    )
    return ema, len(history), history.mean()


def score(model: ode.Model, images: torch.Tensor) -> None:
    """Print what the model's flow says of images."""
    found = ode.log_prob(model, images, seed=0, tol=0.1)
    low, high = found.interval(0.95)
    n = len(images)
    print(f"log-density of {n} held-out images by the flow, 95 % intervals over the probes of the trace:")
    for value, a, b in zip(found.value[:4].tolist(), low.tolist(), high.tolist(), strict=False):
        print(f"  {value:8.2f} nats, {a:.2f} to {b:.2f}")
    bits = found.bits_per_dim(LEVELS)
    print(
        f"mean {float(found.value.mean()):.2f} nats, +- {float(found.value.std()) / n**0.5:.2f} over images; ", end=""
    )
    print(f"{float(bits.mean()):.3f} bits a pixel of {LEVELS} levels ({int(found.nfe.max())} evaluations)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=("ddpm", "edm", "flow"), default="flow")
    parser.add_argument("--minutes", type=float, default=1.5, help="of training at most (default 1.5)")
    parser.add_argument("--steps", type=int, default=3000, help="of training at most (default 3000)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, default=8, help="how many to find the log-density of (default 8)")
    parser.add_argument("--out", default="digits.png")
    given = parser.parse_args()
    torch.manual_seed(0)
    whole, _, whole_held, _ = load()
    data, held = spread(whole, 0), spread(whole_held, 1)
    net = UNet()
    model = model_for(given.system, net, float(data.std()))
    ema, steps, loss = train(model, whole, given.steps, given.minutes, given.batch)
    weights = sum(p.numel() for p in net.parameters())
    print(f"{given.system}: {weights} weights, {steps} steps, loss {loss:.4f}")
    model = model_for(given.system, ema.module, float(data.std()))
    drawn = ode.sample(model, (HELD_OUT, *data.shape[1:]), steps=20, seed=0)
    frechet = Frechet(data)
    floor = frechet(data[:HELD_OUT], held)
    print(
        f"Frechet distance to held-out digits in {FEATURES} principal components: {frechet(drawn, held):.3f} generated",
        end="",
    )
    print(f", {floor:.3f} training, {frechet(torch.randn_like(held), held):.3f} noise")
    score(model, held[: given.images])
    picture({"held-out digits": held[:64], "generated digits": drawn[:64]}, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
