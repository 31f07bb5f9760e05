"""Guidance in one evaluation in the place of two, then in few steps: the two stages of Meng et al.
2023.

python examples/guided_distillation.py [--steps 3000] [--out guided_distillation.png]

The teacher learns eight Gaussians with their labels, and a tenth of each batch without. Its student
takes the scale of guidance as a condition; then its steps are halved. Prints at scales 1, 2, 4 how
far the teacher's samples are from the data, where larger scales lead away on purpose, and how far
both students end from the teacher from the same noise. Writes a picture."""

import argparse
import math

import torch
from networks import MLP
from toys import eight_gaussians, picture, sliced_distance, train

import odesolve as ode
from odesolve.objectives import (
    GuidedDistillation,
    Matching,
    ProgressiveDistillation,
    guidance,
    halve,
)

NONE = 8  # the label of no condition
SCALES = (1.0, 2.0, 4.0)


def batch(n=256):
    """Points and which Gaussian each belongs to."""
    x = eight_gaussians(n)
    return x, {"label": (torch.atan2(x[:, 1], x[:, 0]) * 4 / math.pi).round().long() % 8}


def scaled():
    """Points with their labels and random scales."""
    x, cond = batch()
    return x, cond | {"scale": 1 + 3 * torch.rand(len(x))}


def student_of(net):
    """A model whose network takes the scale as a second time, in octaves."""
    said = lambda x, t, label, scale: net(x, t, scale.log2(), label=label)  # noqa: E731
    return ode.Model(said, ode.paths.Cosine(), "v", dtype=torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=int, default=3000, help="of training; fewer for each halving (default 3000)"
    )
    parser.add_argument("--out", default="guided_distillation.png")
    given = parser.parse_args()
    torch.manual_seed(0)
    net = MLP(classes=8)
    teacher = ode.Model(net, ode.paths.Cosine(), "v")

    def matching(x, cond, generator):
        left = guidance.dropped(cond, {"label": NONE}, 0.1, generator)
        return Matching(teacher)(x, cond=left, generator=generator)

    train(matching, lambda g: batch(), net.parameters(), given.steps)
    nets = [MLP(times=2, classes=8)]
    nets[0].load_state_dict(net.state_dict(), strict=False)  # all but what the scale says
    first = student_of(nets[0])
    distil = GuidedDistillation(first, teacher, {"label": torch.tensor([NONE])}, high=SCALES[-1])
    train(distil, lambda g: batch(), nets[0].parameters(), given.steps, 1e-3)

    def fit(before, times):
        """A student with half the steps of the one before, from its weights."""
        nets.append(MLP(times=2, classes=8))
        nets[-1].load_state_dict(nets[-2].state_dict())
        student = student_of(nets[-1])
        objective = ProgressiveDistillation(student, before, times)
        train(objective, lambda g: scaled(), nets[-1].parameters(), given.steps // 4, 1e-3)
        return student

    last = halve(first, "uniform", fit, steps=32)[-1]
    points = min(4000, 50 * given.steps)
    (test, cond), noise, panels = batch(points), torch.randn(points, 2), {}
    for scale in SCALES:
        own = cond | {"scale": torch.full((points,), scale)}
        guided = teacher.guided(scale, cond, {"label": torch.full_like(cond["label"], NONE)})
        with torch.no_grad():
            aim = ode.sample(guided, noise, "ddim", 32, "uniform")
            by_first = ode.sample(first.given(**own), noise, "ddim", 32, "uniform")
            by_last = ode.sample(last.model.given(**own), noise, "ddim", grid=last.times)
        off = [(x - aim).square().sum(1).mean().sqrt() for x in (by_first, by_last)]
        print(
            f"scale {scale:.0f}: teacher in 32 steps {sliced_distance(aim, test):.3f} from data "
            "of the same labels; "
            f"student {off[0]:.4f} from it in 32 steps, {off[1]:.4f} in one"
        )
        panels |= {
            f"scale {scale:.0f}: teacher, 32 steps": aim,
            f"scale {scale:.0f}: student, 1 step": by_last,
        }
    picture(panels, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
