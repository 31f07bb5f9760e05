"""Train a U-Net on scikit-learn's handwritten digits as DDPM, EDM or flow matching, then sample and
score it.

python examples/train_digits.py [--system flow] [--steps 1800] [--out digits.png] [--checkpoint
digits.safetensors]

Writes a picture of real and generated digits. Prints the Frechet distance of generated digits to
held-out ones in the first 20 principal components of the training images, beside that of training
digits; and the log-density of held-out images. With --checkpoint the averaged weights are kept, and
beside them held.npz, the held-out digits as whole values. Then, in examples/,

odesolve loglik train_digits:load --data held.npz --levels 17 --limit 64
odesolve profile train_digits:load --shape 64,1,8,8 --nfe 5,10,20
odesolve sample train_digits:load --shape 64,1,8,8 --steps 20 --out drawn.png

say how likely held-out digits are, which sampler is best for these weights, and draw. The file is
the one that the environment variable DIGITS names, by default digits.safetensors.
"""

import argparse
import os
from pathlib import Path

import digits
import numpy as np
import torch
from networks import UNet

import odesolve as ode
from odesolve.objectives import Matching
from odesolve.training import checkpoint


def model_for(net: torch.nn.Module, system: str, std: float) -> ode.Model:
    """The path, the prediction and the time that each system trains with; ``std`` is the data's."""
    if system == "ddpm":
        return ode.Model(net, ode.paths.Discrete.ddpm(), "noise", time="t")
    if system == "edm":
        return ode.Model(net, ode.paths.EDM(), "edm", sigma_data=std)
    return ode.Model(net, ode.paths.Linear(), "velocity")


def load(file: str | None = None) -> ode.Model:
    """The model of a checkpoint; without arguments, as the command line calls it, of the one that
    DIGITS names."""
    held = checkpoint.read(file or os.environ.get("DIGITS", "digits.safetensors"))
    net = UNet().requires_grad_(False)
    held.restore({"network": net})
    return model_for(net, **held.configuration)


def score(model: ode.Model, images: torch.Tensor) -> None:
    """Print what the model's flow says of images."""
    found = ode.log_prob(model, images, seed=0, tol=0.1)
    low, high = found.interval(0.95)
    print(
        f"log-density of {len(images)} held-out images by the flow, 95 % intervals by what the "
        "solver errs:"
    )
    for value, a, b in zip(found.value[:4].tolist(), low.tolist(), high.tolist(), strict=False):
        print(f"  {value:8.2f} nats, {a:.2f} to {b:.2f}")
    bits = float(found.bits_per_dim(digits.LEVELS).mean())
    told = f"{bits:.3f} bits a pixel of {digits.LEVELS} levels ({int(found.nfe.max())} evaluations)"
    print(f"mean {float(found.value.mean()):.2f} nats; {told}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", choices=("ddpm", "edm", "flow"), default="flow")
    parser.add_argument("--steps", type=int, default=1800, help="of training (default 1800)")
    parser.add_argument(
        "--images", type=int, default=8, help="how many to find the log-density of (default 8)"
    )
    parser.add_argument("--out", default="digits.png")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="keep the weights here, and held.npz beside them"
    )
    given = parser.parse_args()
    torch.manual_seed(0)
    whole, _, whole_held, _ = digits.load()
    data, held = digits.spread(whole, 0), digits.spread(whole_held, 1)
    made = {"system": given.system, "std": float(data.std())}
    net = UNet()
    ema, history = digits.train(
        Matching(model_for(net, **made)), digits.Batches(whole, 128), net, given.steps
    )
    weights = sum(p.numel() for p in net.parameters())
    print(f"{given.system}: {weights} weights, {given.steps} steps, loss {history.mean():.4f}")
    if given.checkpoint:
        checkpoint.save(
            given.checkpoint, {"network": ema.module}, step=given.steps, configuration=made
        )
        np.savez(Path(given.checkpoint).with_name("held.npz"), whole_held.long().numpy())
    model = model_for(ema.module, **made)
    drawn = ode.sample(model, (digits.HELD_OUT, 1, 8, 8), steps=20, seed=0)
    frechet = digits.Frechet(data)
    floor, noise = frechet(data[: digits.HELD_OUT], held), frechet(torch.randn_like(held), held)
    print(
        f"Frechet distance to held-out digits in {digits.FEATURES} principal components: "
        f"{frechet(drawn, held):.3f} generated, "
        f"{floor:.3f} training, {noise:.3f} noise"
    )
    score(model, held[: given.images])
    digits.picture({"held-out digits": held[:64], "generated digits": drawn[:64]}, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
