"""Flow matching in the latent space of an autoencoder: scikit-learn's 8 by 8 digits as 16 numbers
each.

python examples/latent.py [--latent 16] [--steps 2000] [--out latent.png]

Prints how well held-out digits are reconstructed, and the Frechet distance to held-out digits of
samples with few evaluations, beside that of reconstructed training digits, which no sampler of this
autoencoder is likely to beat. Writes a picture of held-out and reconstructed and drawn digits, and
of ways in the latent space from one held-out digit to the next."""

import argparse

import digits
import torch
import toys
from networks import MLP, Autoencoder

import odesolve as ode
from odesolve.objectives import Matching

# The latent has noise of a fixed deviation, and the Kullback-Leibler divergence of it to a standard
# normal as a penalty, of which only the square depends on the weights. The noise makes the space
# smooth, the penalty keeps it from growing out of the noise.
NOISE, WEAK = 0.2, 2e-3


def train_autoencoder(coder: Autoencoder, whole: torch.Tensor, steps: int) -> Autoencoder:
    """The averaged weights, trained by the mean squared error from noisy latents."""

    def objective(x, generator=None, cond=None):
        z = coder.encode(x)
        error = coder.decode(z + NOISE * torch.randn(z.shape, generator=generator)) - x
        return error.square().mean() + WEAK * z.square().mean()

    return digits.train(objective, digits.Batches(whole, 128), coder, steps)[0].module


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latent", type=int, default=16, help="numbers of a digit (default 16)")
    parser.add_argument(
        "--steps",
        type=int,
        default=2000,
        help="of the autoencoder, and half of the flow's (default 2000)",
    )
    parser.add_argument("--out", default="latent.png")
    given = parser.parse_args()
    torch.manual_seed(0)
    whole, _, whole_held, _ = digits.load()
    data, held = digits.spread(whole, 0), digits.spread(whole_held, 1)
    coder = train_autoencoder(Autoencoder(given.latent), whole, given.steps)
    codes = coder.encode(data)
    mean, std = codes.mean(0), (codes.var(0) + NOISE**2).sqrt()

    def draw(generator):
        """Standardised latents, with the noise that the decoder is used to."""
        z = codes[torch.randint(len(codes), (256,), generator=generator)]
        return (z + NOISE * torch.randn(z.shape, generator=generator) - mean) / std

    def decoded(z):
        return coder.decode(z * std + mean)

    net = MLP(given.latent, width=256)
    model = ode.Model(net, ode.paths.Linear(), "velocity")
    loss = toys.train(Matching(model), draw, net.parameters(), 2 * given.steps)
    net.requires_grad_(False)
    frechet, known = digits.Frechet(data), (coder.encode(held) - mean) / std
    again = decoded(known)
    error = float((again - held).square().mean().sqrt())
    print(
        f"autoencoder: rms error {error:.3f} a pixel of held-out digits, whose deviation is "
        f"{float(held.std()):.3f}"
    )
    print(
        f"Frechet distance to held-out digits: {frechet(again, held):.3f} their reconstructions, "
        f"{frechet(data[: digits.HELD_OUT], held):.3f} training digits, "
        f"{frechet(decoded(codes[: digits.HELD_OUT].sub(mean) / std), held):.3f} reconstructed "
        "training digits"
    )
    for steps in (5, 10, 20):
        drawn = decoded(ode.sample(model, (digits.HELD_OUT, given.latent), steps=steps, seed=0))
        print(f"flow (loss {loss:.3f}) with {steps} evaluations: {frechet(drawn, held):.3f}")
    ways = ode.interpolate(model, known[:8], known[8:16], torch.linspace(0, 1, 8), "heun", 20)
    ways = decoded(ways.transpose(0, 1).flatten(0, 1))
    boards = {
        "held-out": held[:64],
        "reconstructed": again[:64],
        "generated": drawn[:64],
        "interpolated": ways,
    }
    digits.picture(boards, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
