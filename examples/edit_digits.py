"""Editing of digits: SDEdit, inpainting, the way to the noise and back, and interpolation.

python examples/edit_digits.py [--checkpoint digits.safetensors] [--out edit_digits.png]

By default the model is the exact one of scikit-learn's digits, each with a narrow Gaussian on it,
so that nothing has to be trained; with a checkpoint it is the network that train_digits.py trained,
and the digits are held-out ones. Prints how far edits are from what was given, and their Frechet
distance to other digits. Writes a picture of digits before and after."""

import argparse

import digits
import torch
import train_digits

import odesolve as ode


def rms(x: torch.Tensor, y: torch.Tensor) -> float:
    """Root of the mean square of a difference."""
    return float((x - y).square().mean().sqrt())


def setting(file: str | None) -> tuple[ode.Model, torch.Tensor, torch.Tensor]:
    """A model, digits to edit that are likely under it, and others to compare with."""
    if file is not None:
        whole, _, whole_held, _ = digits.load()
        return train_digits.load(file), digits.spread(whole_held, 1), digits.spread(whole, 0)
    problem = ode.problems.digits()
    x = problem.sample(5 * digits.HELD_OUT, seed=0).float()
    return problem.model(ode.paths.Linear(), "velocity"), x[: digits.HELD_OUT], x[digits.HELD_OUT :]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="of train_digits.py; by default the exact model"
    )
    parser.add_argument("--digits", type=int, help="how many to edit, at least 16 (default: all)")
    parser.add_argument("--out", default="edit_digits.png")
    given = parser.parse_args()
    model, x, others = setting(given.checkpoint)
    x = x[: given.digits]
    distance = digits.Frechet(others)
    far = lambda drawn: f"Frechet distance {distance(drawn, others):.3f}"  # noqa: E731
    boards = {"digits": x[:64]}
    print(
        f"the digits as they are: {far(x)} to others; drawn anew: "
        f"{far(ode.sample(model, x.shape, steps=20, seed=0))}"
    )

    rough = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(x, 2), scale_factor=2.0)
    boards["rough"] = rough[:64]
    print(f"rough drawings, in blocks of 2 by 2: {far(rough)}")
    for t in (0.2, 0.4, 0.6, 0.8):
        edited = ode.sdedit(model, rough, t, "dpmpp_2m_sde", 20, seed=0)
        print(f"SDEdit from t = {t}: rms {rms(edited, rough):.3f} from the drawing, {far(edited)}")
        boards |= {"SDEdit, t = 0.4": edited[:64]} if t == 0.4 else {}

    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :] = 1.0
    boards["upper halves"] = (x * mask - (1 - mask))[:64]
    for solver in ("ddim", "dpmpp_2m", "dpmpp_2m_sde"):
        filled = ode.sample(model.inpainted(x, mask), x.shape, solver, 20, seed=0)
        off = float(((filled - x) * mask).abs().max())
        print(f"lower halves filled in by {solver}: {off:.0e} off where known, {far(filled)}")
    boards["filled in"] = filled[:64]

    for steps in (10, 50, 200):
        noise = ode.invert(model, x[:100], "ddim", steps)
        back = ode.sample(model, state=noise, solver="ddim", steps=steps)
        error = f"rms error {rms(back, x[:100]):.4f}, noise of deviation {noise.std():.3f}"
        print(f"DDIM to the noise and back, {steps} steps each: {error}")
    ways = ode.interpolate(model, x[:8], x[8:16], torch.linspace(0, 1, 8), "ddim", 50)
    boards["interpolated"] = ways.transpose(0, 1).flatten(0, 1)
    digits.picture(boards, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
