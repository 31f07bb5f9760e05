"""Students of exact Gaussian models: what they are to learn is known to round-off, and with it the
sampler they become."""

import pytest
import torch

import odesolve as ode
from odesolve.objectives.distillation import (
    GuidedDistillation,
    ProgressiveDistillation,
    ddim,
    halve,
    two_steps,
)
from tests.products import diagonal
from tests.rows import rows

LINEAR, VP, EDM, COSINE = ode.paths.Linear(), ode.paths.VP(), ode.paths.EDM(), ode.paths.Cosine()
MEAN, STD = 0.4, 0.6
problem = ode.problems.gaussian(mean=MEAN, std=STD, shape=(1,))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


TIMES = {
    "linear": (LINEAR, [1.0, 0.6, 0.25, 0.1, 0.0]),
    "flipped": (LINEAR.flipped(), [0.0, 0.4, 0.75, 0.9, 1.0]),
    "vp": (VP, [1.0, 0.6, 0.25, 0.1, 0.001]),
    "cosine": (COSINE, [1.0, 0.6, 0.25, 0.1, 0.0]),
    "edm": (EDM, [80.0, 10.0, 2.0, 0.5, 0.0]),
}
CASES = pytest.mark.parametrize(("path", "times"), TIMES.values(), ids=TIMES)


@CASES
def test_a_ddim_step_is_the_librarys(path, times):
    model, x = problem.model(path), normal(3, 1)
    t, r = (
        torch.tensor([times[0], times[2], times[3]]).double(),
        torch.tensor([times[1], times[3], times[4]]).double(),
    )
    found = ddim(path, x, model.data(x, t), t, r)
    for k in range(3):
        alone = ode.sample(
            model, state=x[k : k + 1], solver="ddim", grid=[float(t[k]), float(r[k])]
        )
        torch.testing.assert_close(found[k : k + 1], alone, rtol=1e-12, atol=1e-12)


@CASES
def test_the_target_is_the_papers(path, times):
    """(z'' - (sigma''/sigma) z) / (alpha'' - (sigma''/sigma) alpha), and its one DDIM step is the
    teacher's two."""
    model, x = problem.model(path, "v"), normal(2, 1)
    t, middle, end = (torch.tensor([times[k], times[k + 2]]).double() for k in range(3))
    aim = two_steps(model, x, t, middle, end)
    half = ddim(path, x, model.data(x, t), t, middle)
    whole = ddim(path, half, model.data(half, middle), middle, end)
    torch.testing.assert_close(ddim(path, x, aim, t, end), whole, rtol=1e-13, atol=1e-13)
    ratio = path.sigma(end) / path.sigma(t)
    printed = (whole - ratio[:, None] * x) / (path.alpha(end) - ratio * path.alpha(t))[:, None]
    torch.testing.assert_close(aim, printed, rtol=1e-12, atol=1e-12)
    if float(path.sigma(end[1])) == 0:
        torch.testing.assert_close(aim[1], whole[1] / path.alpha(end[1]), rtol=1e-13, atol=1e-13)


def test_targets_of_tiny_steps_keep_their_digits():
    """Steps of 1e-6 in float32: the printed form would divide rounding errors by 1e-6."""
    model, x = problem.model(VP), normal(4, 1).float()
    t, middle, end = (torch.full((4,), 0.5 - k * 1e-6, dtype=torch.float64) for k in range(3))
    aim = two_steps(model, x, t, middle, end)
    torch.testing.assert_close(
        aim.double(), two_steps(model, x.double(), t, middle, end), rtol=1e-5, atol=1e-6
    )


class Table(torch.nn.Module):
    """a_i x + b_i, two numbers for each time."""

    def __init__(self, times):
        super().__init__()
        self.times = torch.tensor(times, dtype=torch.float64)
        self.ab = torch.nn.Parameter(torch.zeros(len(times), 2, dtype=torch.float64))

    def forward(self, x, t):
        ab = self.ab[(t[:, None] - self.times).abs().argmin(1)]
        return ab[:, :1] * x + ab[:, 1:]


def fitted(path, predicts, **options):
    """Exact fits by Newton's method: the loss is quadratic in the two numbers of each step, and 0
    at its minimum."""

    def fit(teacher, times):
        net = Table(times[::2])
        student = ode.Model(net, path, predicts)
        objective = ProgressiveDistillation(student, teacher, times, **options)
        x, z = normal(12, 1), normal(12, 1, seed=1)
        for i in range(len(times) // 2):
            index = torch.full((12,), i)

            def gradient(ab, i=i, index=index):
                with torch.no_grad():
                    net.ab[i] = ab
                return torch.autograd.grad(objective(x, noise=z, index=index).loss, net.ab)[0][i]

            at = torch.zeros(2, dtype=torch.float64)
            for _ in range(3):  # once is exact but for the rounding of the differences
                g = gradient(at)
                hessian = torch.stack(
                    [gradient(at + e) - g for e in torch.eye(2, dtype=torch.float64)]
                )
                at = at - torch.linalg.solve(hessian, g)
            gradient(at)
            assert float(objective(x, noise=z, index=index).loss.detach()) < 1e-26
        return student

    return fit


@rows(("path", "predicts"), diagonal([LINEAR, COSINE], ["data", "v"]))
def test_one_step_after_five_halvings_is_ddim_in_32(path, predicts):
    """Row 33."""
    teacher, z = problem.model(path, predicts), normal(20, 1, seed=5)
    stages = halve(teacher, "uniform", fitted(path, predicts), steps=32)
    assert [len(s.times) - 1 for s in stages] == [16, 8, 4, 2, 1]
    whole = ode.sample(teacher, z, "ddim", 32, "uniform")
    for stage in stages:
        found = ode.sample(stage.model, z, "ddim", grid=stage.times)
        torch.testing.assert_close(found, whole, rtol=0, atol=4e-15)
    assert float((ode.sample(teacher, z, "ddim", 1, "uniform") - whole).abs().max()) > 0.1


@rows("weight", ["max_snr", "snr_plus_1"])
@rows("predicts", ["data", "noise", "v", "velocity"])
def test_weights_are_of_the_data_error_whatever_is_predicted(predicts, weight):
    other = ode.problems.gaussian(mean=0.1, std=0.9, shape=(2,))
    teacher = ode.problems.gaussian(mean=MEAN, std=STD, shape=(2,)).model(VP, "data")
    objective = ProgressiveDistillation(
        other.model(VP, predicts), teacher, "uniform", 8, weight=weight
    )
    x, z, index = normal(4, 2), normal(4, 2, seed=1), torch.arange(4)
    found = objective(x, noise=z, index=index)
    times = torch.tensor(objective.times, dtype=torch.float64)
    t, middle, end = times[0:7:2], times[1:8:2], times[2:9:2]
    assert torch.equal(found.t, t)
    assert objective.student_times == tuple(times[::2].tolist())
    x_t = VP.alpha(t)[:, None] * x + VP.sigma(t)[:, None] * z
    error = (
        (other.model(VP).data(x_t, t) - two_steps(teacher, x_t, t, middle, end)).square().mean(1)
    )
    snr = (VP.alpha(t) / VP.sigma(t)) ** 2
    factor = snr.clamp_min(1) if weight == "max_snr" else snr + 1
    torch.testing.assert_close(found.each, factor * error, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.loss, found.each.mean())


class Labelled(torch.nn.Module):
    """The exact data prediction of N(label, STD^2), with the scale of guidance as one more input
    where it is given."""

    def forward(self, x, t, label, scale=None):
        a, s = LINEAR.alpha(t)[:, None], LINEAR.sigma(t)[:, None]
        seen = lambda m: m + a * STD**2 / (a**2 * STD**2 + s**2) * (x - a * m)
        m = label[:, None]
        return seen(m) if scale is None else seen(0 * m) + scale[:, None] * (seen(m) - seen(0 * m))


def guided():
    teacher, student = (ode.Model(Labelled(), LINEAR, "data") for _ in range(2))
    return (
        teacher,
        student,
        GuidedDistillation(student, teacher, {"label": torch.zeros(1, dtype=torch.float64)}),
    )


def test_a_student_of_guidance_is_guidance_at_every_scale():
    """Row 34: at zero loss, and there the student samples as the guided teacher does."""
    teacher, student, objective = guided()
    x, label = normal(6, 1), normal(6, seed=2)
    for scale in (0.0, 1.0, 2.5, 7.0):
        scales = torch.full((6,), scale, dtype=torch.float64)
        found = objective(x, cond={"label": label}, scale=scales, generator=generator())
        assert float(found.each.max()) < 1e-28
        theirs = teacher.guided(scale, cond={"label": label}, uncond={"label": 0 * label})
        mine = student.given(label=label, scale=scales)
        z = normal(6, 1, seed=3)
        torch.testing.assert_close(ode.sample(mine, z, "ddim", 7), ode.sample(theirs, z, "ddim", 7))
        wrong = objective(x, cond={"label": label}, scale=scales + 1, generator=generator())
        assert torch.equal(wrong.scale, scales + 1)


def test_a_student_of_guidance_that_is_wrong_has_its_weighted_error():
    teacher, _, _ = guided()
    b = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    net = lambda x, t, label, scale: Labelled()(x, t, label, scale) + b * scale[:, None]
    objective = GuidedDistillation(
        ode.Model(net, LINEAR, "data"), teacher, {"label": torch.zeros(6).double()}
    )
    x, label, t = normal(6, 1), normal(6, seed=2), torch.linspace(0.1, 0.9, 6).double()
    found = objective(x, cond={"label": label}, t=t, generator=generator())
    weight = ((1 - t) / t).square().clamp_min(1)
    torch.testing.assert_close(found.each, weight * 0.09 * found.scale**2)
    assert bool(((found.scale >= 1) & (found.scale <= 5)).all())
    assert torch.equal(found.t, t)
    assert float(torch.autograd.grad(found.loss, b)[0]) > 0
    again = objective(x, cond={"label": label}, t=t, generator=generator())
    assert torch.equal(found.scale, again.scale)


def test_second_stage_of_guided_students():
    """The scale is a condition as any other: both models of a halving get it."""
    _, student, _ = guided()
    objective = ProgressiveDistillation(student, student, "uniform", 8)
    x, cond = (
        normal(4, 1),
        {"label": normal(4, seed=2), "scale": torch.tensor([1.0, 2.0, 3.0, 4.0]).double()},
    )
    last = objective(x, index=torch.full((4,), 3), cond=cond, generator=generator())
    path, (t, middle, end) = LINEAR, objective.times[-3:]
    whole = [torch.full((4,), v, dtype=torch.float64) for v in (t, middle, end)]
    x_t = float(path.alpha(t)) * x + float(path.sigma(t)) * torch.randn(
        4, 1, dtype=torch.float64, generator=generator()
    )
    own = student.given(**cond)
    error = (own.data(x_t, t) - two_steps(own, x_t, *whole)).square().mean(1)
    torch.testing.assert_close(last.each, error * max(1.0, ((1 - t) / t) ** 2))
    assert float(last.each.min()) > 0


def test_random_steps_and_dtypes():
    net = torch.nn.Linear(1, 1)
    student = ode.Model(lambda x, t: net(x), LINEAR, "velocity")
    objective = ProgressiveDistillation(student, problem.model(LINEAR), "uniform", 8)
    found = objective(torch.zeros(4000, 1), generator=generator())
    assert found.loss.dtype is torch.float32
    for t in objective.student_times[:-1]:
        share = float((found.t == t).double().mean())
        assert abs(share - 0.25) < 4 * (0.1875 / 4000) ** 0.5
    assert all(
        bool(g.isfinite().all()) for g in torch.autograd.grad(found.loss, list(net.parameters()))
    )


def test_halving_stops_where_it_is_told():
    seen = []
    fit = lambda teacher, times: seen.append(len(times) - 1) or teacher
    model = problem.model(LINEAR)
    assert [len(s.times) for s in halve(model, "uniform", fit, 24, rounds=2)] == [13, 7]
    assert [len(s.times) for s in halve(model, "uniform", fit, 24)] == [13, 7, 4]
    assert seen == [24, 12, 24, 12, 6]


def test_errors():
    plain, x = problem.model(LINEAR), torch.zeros(2, 1)
    scaled = plain.guided(2.0, uncond={})
    objective = ProgressiveDistillation(plain, plain, "uniform", 4)
    cases = [
        (lambda: ProgressiveDistillation(plain, plain, "uniform", 5), "even number"),
        (lambda: ProgressiveDistillation(plain, problem.model(VP), "uniform", 4), "one path"),
        (lambda: ProgressiveDistillation(scaled, plain, "uniform", 4), "student is guided"),
        (
            lambda: ProgressiveDistillation(problem.model(LINEAR, "noise"), plain, "uniform", 4),
            "no signal at t=1",
        ),
        (lambda: objective(x, index=torch.tensor([0, 2])), "0 to 1"),
        (lambda: objective(x, index=torch.tensor([0])), "0 to 1"),
        (lambda: GuidedDistillation(plain, scaled, {}), "teacher is guided"),
        (
            lambda: GuidedDistillation(plain, plain, {})(x, cond={}, scale=torch.zeros(3)),
            "one per sample",
        ),
        (lambda: halve(plain, "uniform", lambda m, t: m, 6, rounds=2), "cannot be halved"),
    ]
    for call, message in cases:
        with pytest.raises(ode.OdesolveError, match=message):
            call()
