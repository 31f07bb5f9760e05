"""Progressive distillation: a student takes two DDIM steps of its teacher in one, again and again,
down to one step.

python examples/progressive_distillation.py [--set checkerboard] [--steps 4000] [--out
progressive_distillation.png]

After every halving prints the sliced distance to the data of the student, of the first teacher with
as few steps, and how far the student ends from where the first teacher goes in 32 steps from the
same noise: what the halvings have lost. Writes a picture."""

import argparse

import torch
from networks import MLP
from toys import SETS, picture, sliced_distance, train

import odesolve as ode
from odesolve.objectives import Matching, ProgressiveDistillation, halve


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=SETS, default="checkerboard")
    parser.add_argument(
        "--steps",
        type=int,
        default=4000,
        help="of training; a quarter for each student (default 4000)",
    )
    parser.add_argument("--out", default="progressive_distillation.png")
    given = parser.parse_args()
    torch.manual_seed(0)
    data = SETS[given.set]
    points = min(6000, 50 * given.steps)
    test, noise = data(points), torch.randn(points, 2)

    def trained(student, objective, steps, rate):
        """The student after so many steps."""
        train(objective, lambda g: data(256), student.net.parameters(), steps, rate)
        return student

    def fit(before, times):
        """A student of the model before, begun as it: v tells the data even from pure noise, where
        a noise network could not."""
        student = ode.Model(MLP(), before.path, "v")
        student.net.load_state_dict(before.net.state_dict())
        return trained(
            student, ProgressiveDistillation(student, before, times), given.steps // 4, 1e-3
        )

    teacher = ode.Model(MLP(), ode.paths.Cosine(), "v")
    trained(teacher, Matching(teacher), given.steps, 2e-3)
    stages = halve(teacher, "uniform", fit, steps=32)
    with torch.no_grad():
        by_teacher = {
            n: ode.sample(teacher, noise, "ddim", n, "uniform") for n in (32, 16, 8, 4, 2, 1)
        }
        by_student = {
            len(s.times) - 1: ode.sample(s.model, noise, "ddim", grid=s.times) for s in stages
        }
    whole = by_teacher[32]
    print(
        f"sliced distance to the data: teacher in 32 steps {sliced_distance(whole, test):.3f}, "
        f"data from data {sliced_distance(data(points), test):.3f}"
    )
    print("steps  student  teacher  student from the teacher's 32 steps")
    for n, x in by_student.items():
        off = (x - whole).square().sum(1).mean().sqrt()
        print(
            f"{n:5} {sliced_distance(x, test):8.3f} {sliced_distance(by_teacher[n], test):8.3f} "
            f"{off:10.4f}"
        )
    panels = {"teacher, 32 steps": whole, "student, 1 step": by_student[1]}
    panels |= {f"teacher, {n} steps": by_teacher[n] for n in (4, 2)} | {
        "teacher, 1 step": by_teacher[1]
    }
    picture(panels, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
