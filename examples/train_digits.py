"""Train a U-Net on scikit-learn's handwritten digits as DDPM, EDM or flow matching, then sample and score it.

python examples/train_digits.py [--system flow] [--minutes 1.5] [--steps 3000] [--out digits.png]

Writes a picture of real and generated digits. Prints the Frechet distance of generated digits to held-out ones in the first 20
principal components of the training images, beside that of training digits; and the log-density of held-out images.
"""

import argparse
import time

import torch
from networks import UNet

import odesolve as ode
from odesolve.objectives import Matching
from odesolve.training import EMA, Power, fit

LEVELS, HELD_OUT, FEATURES = 17, 297, 20


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images with values 0 to 16, (N, 1, 8, 8), for training and held out."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images).float()[:, None]
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    return images[HELD_OUT:], images[:HELD_OUT]


def spread(whole: torch.Tensor, seed: int) -> torch.Tensor:
    """Whole values over their width in [-1, 1], so that they have a density."""
    return ode.dequantise(whole.long(), LEVELS, seed=seed).x


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

    def draw(generator):
        k = images[torch.randint(len(images), (batch,), generator=generator)]
        return (k + torch.rand(k.shape, generator=generator)) * 2 / LEVELS - 1

    ema, end = EMA(model.net, Power.of_width(0.1)), time.monotonic() + 60 * minutes
    history = fit(
        Matching(model),
        draw,
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


class Frechet:
    """Distance of Gaussian fits |m - n|^2 + tr(C + D - 2 (C^1/2 D C^1/2)^1/2) in principal components of the training images."""

    def __init__(self, images: torch.Tensor):
        flat = images.flatten(1).double()
        self.axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[:FEATURES].T

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> float:
        (m, c), (n, d) = (self.moments(x) for x in (a, b))
        values, vectors = torch.linalg.eigh(c)
        root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        cross = torch.linalg.eigvalsh(root @ d @ root).clamp_min(0).sqrt().sum()
        return float((m - n).square().sum() + c.trace() + d.trace() - 2 * cross)

    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and covariance of the features."""
        features = x.flatten(1).double() @ self.axes
        return features.mean(0), torch.cov(features.T)


def picture(real: torch.Tensor, drawn: torch.Tensor, file: str) -> None:
    """64 digits of each kind, side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.6), dpi=110)
    FigureCanvasAgg(figure)
    for k, (title, x) in enumerate((("held-out digits", real), ("generated digits", drawn))):
        tiles = torch.nn.functional.pad(x[:64, 0], (1, 1, 1, 1), value=-1.0)
        board = tiles.view(8, 8, 10, 10).transpose(1, 2).reshape(80, 80)
        axes = figure.add_subplot(1, 2, k + 1)
        axes.imshow(board.numpy(), cmap="gray_r", vmin=-1, vmax=1)
        axes.set(title=title, xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(file)


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
    whole, whole_held = digits()
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
    picture(held, drawn, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
