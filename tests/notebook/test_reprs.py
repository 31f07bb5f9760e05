"""Every public result says in a line or two what it holds, dumps no tensor, and is a small table in
a notebook: valid, escaped, and in the page's own colours."""

import dataclasses
import inspect
import typing
from html.parser import HTMLParser

import pytest
import torch

import odesolve as ode
from odesolve import jobs, objectives, training
from odesolve.doors import brief
from odesolve.profile import Certificate, Profile, Reference, Row
from odesolve.run.advance import Cursor
from odesolve.training.run import History
from tests.rows import rows

VP = ode.paths.VP()
GAUSSIAN = ode.problems.gaussian(mean=0.3, std=0.5, shape=(2,))
MODEL = GAUSSIAN.model(VP)
LONGEST = 500  # characters of a repr: two lines
LARGEST = 20_000  # of a table, which that of all solvers nearly takes


def decay(t, y):
    return -y


def profiled():
    rows = [
        Row("euler", "<b>&", n, steps=n, calls=n, counted=n, median=1 / n, rmse=1 / n, sliced=0.1)
        for n in (5, 10)
    ]
    failed = Row("ddim", "karras", 5, status="error", message="<script>")
    return Profile([*rows, failed], Certificate(1e-4, 1e-4, 1e-3, 512, True, "two solves"))


def stepped():
    return next(iter(ode.iterate(MODEL, (6, 2), "ddim", 3, seed=0)))


def solved(**options):
    return ode.solve(decay, torch.ones(6, 3), (0.0, 1.0), **options)


def windowed():
    window = ode.Window()
    ode.sample(MODEL, (6, 2), "ddim", 6, seed=0, executor=window)
    return window.report


def terms():
    net = torch.nn.Linear(2, 2)
    model = ode.Model(lambda x, t: net(x), ode.paths.Linear(), "velocity")
    return objectives.Matching(model)(torch.randn(6, 2))


def job(folder):
    return jobs.sample(MODEL, (4, 2), solver="ddim", steps=2, n=8, out=folder, seed=0)


def resembling(cls):
    """An instance of a dataclass of tensors, without its constructor."""
    made = object.__new__(cls)
    for field in dataclasses.fields(cls):
        object.__setattr__(made, field.name, torch.randn(6, 4))
    return made


# What public functions return, by what makes one; "folder" is a folder of its own.
RESULTS = {
    "Model": lambda folder: MODEL,
    "Plan": lambda folder: ode.plan("dpmpp_2m", VP, 60),
    "PlanDiff": lambda folder: ode.plan("ddim", VP, 4).diff(ode.plan("dpmpp_2m", VP, 4)),
    "Profile": lambda folder: profiled(),
    "Sample": lambda folder: ode.sample(MODEL, (6, 2), "ddim", 3, seed=0, full=True),
    "Sample of densities": lambda folder: ode.sample(
        MODEL, (6, 2), "ddim", 3, seed=0, log_prob="plan"
    ),
    "Solution": lambda folder: solved(),
    "Solution of events": lambda folder: solved(events=[ode.Event(lambda t, y: y[:, 0] - 0.5)]),
    "Found": lambda folder: solved(events=[ode.Event(lambda t, y: y[:, 0] - 0.5)]).events[0],
    "Diagnosis": lambda folder: solved(max_steps=1).diagnosis(),
    "SDESolution": lambda folder: ode.solve_sde(
        decay, 0.1, torch.ones(6, 3), steps=3, seed=0, noise="additive"
    ),
    "LogProb": lambda folder: ode.log_prob(MODEL, GAUSSIAN.sample(6)),
    "PlanDensity": lambda folder: ode.log_prob(MODEL, GAUSSIAN.sample(6), of="plan", steps=2),
    "Bound": lambda folder: ode.elbo(MODEL, GAUSSIAN.sample(6), steps=4, seed=0),
    "Chains": lambda folder: ode.mala(lambda x: -(x**2).sum(-1), torch.zeros(6, 2), 0.1, 3),
    "Check": lambda folder: ode.check(MODEL, GAUSSIAN.sample(64), seconds=0.5),
    "Step": lambda folder: stepped(),
    "Cursor": lambda folder: stepped().cursor,
    "Report": lambda folder: windowed(),
    "Registry": lambda folder: ode.solvers(),
    "Solver": lambda folder: ode.solvers()["ddim"],
    "History": lambda folder: History(torch.rand(50), torch.rand(50)),
    "Job": job,
    "Terms": lambda folder: terms(),
    "Window": lambda folder: ode.Window(),
    "Parareal": lambda folder: ode.Parareal(),
    "Sampler": lambda folder: ode.Sampler(MODEL, "ddim", 3),
    "BrownianPath": lambda folder: ode.BrownianPath((6, 2)),
    "Reference": lambda folder: Reference(
        torch.randn(6, 2), Certificate(0, 0, 0, 0, True, "by hand")
    ),
    "Mixture": lambda folder: GAUSSIAN,
    "Event": lambda folder: ode.Event(decay),
    "Path": lambda folder: ode.paths.Discrete.ddpm(),
    "Backend": lambda folder: ode.backend(),
}
# What is shown as a table, all that hold results; paths, events and the like are typed as they are.
TABLES = set(RESULTS) - {"PlanDiff", "Diagnosis", "Solver", "Mixture", "Event", "Path", "Backend"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp("job") / "j") for name, make in RESULTS.items()}


@rows("name", sorted(RESULTS))
def test_a_repr_is_a_line_or_two_without_numbers_of_tensors(made, name):
    text = repr(made[name])
    assert len(text.splitlines()) <= 2
    assert len(text) <= LONGEST
    assert "tensor(" not in text


class Balanced(HTMLParser):
    """Tags that are closed in their order; styles that are met."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.styles = []
        self.tags = set()
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        self.styles += [value for key, value in attrs if key == "style"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@rows("name", sorted(TABLES))
def test_a_table_is_valid_small_and_has_no_colours(made, name):
    text = made[name]._repr_html_()
    page = Balanced(text)
    assert len(text) <= LARGEST
    assert "tensor(" not in page.words
    assert page.tags <= {
        *("table", "caption", "thead", "tbody", "tr", "th", "td", "b", "pre"),
        *("details", "summary"),
    }
    assert set(page.styles) <= {"text-align:left"}


def test_what_users_named_is_escaped():
    text = profiled()._repr_html_()
    assert "&lt;b&gt;&amp;" in text
    assert "<script>" not in text


def returned():
    """The classes of ours that public functions say they return."""
    for name in ode.__all__:
        given = getattr(ode, name)
        if inspect.isfunction(given):
            kinds = [typing.get_type_hints(inspect.unwrap(given)).get("return")]
            while kinds:
                kind = kinds.pop()
                kinds += typing.get_args(kind)
                if isinstance(kind, type) and kind.__module__.startswith("odesolve"):
                    yield kind


def test_everything_that_public_functions_return_is_looked_at(made):
    seen = {type(value) for value in made.values()}
    for kind in {*returned(), *(k for k in map(ode.__dict__.get, ode.__all__) if type(k) is type)}:
        known = kind in seen or hasattr(kind, "_facts") or issubclass(kind, Exception)
        assert known or any(issubclass(k, kind) for k in seen) or kind is ode.Writer, kind


def holding_tensors():
    """Public dataclasses that have a field of tensors."""
    for module in (objectives, training, ode):
        for kind in vars(module).values():
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                held = [f for f in dataclasses.fields(kind) if "Tensor" in str(f.type)]
                yield from [kind] if held else []


@rows("kind", sorted({*holding_tensors()}, key=lambda k: k.__qualname__))
def test_no_dataclass_of_tensors_dumps_them(kind):
    if hasattr(kind, "_facts") and kind._facts.__module__ == brief.__name__:
        assert "tensor(" not in repr(resembling(kind))
        assert "float32 (6, 4)" in repr(resembling(kind))


def test_numbers_of_samples_are_told_by_mean_and_range():
    assert brief.tensor(torch.tensor([1.0, 2.0, 3.0])) == "[1, 2, 3]"
    assert brief.tensor(torch.arange(5)) == "2 (0 to 4)"
    assert brief.tensor(torch.full((9,), 20)) == "20"
    assert brief.tensor(torch.tensor([1.0, torch.nan, 3.0, 2.0, 2.0])) == "2 (1 to 3), 1 NaN"
    assert brief.tensor(torch.zeros(2, 3, dtype=torch.float16)) == "float16 (2, 3)"
    assert brief.tensor(torch.empty(0)) == "float32 (0,)"
    assert brief.tensor(torch.empty(3, device="meta")) == "float32 (3,) on meta"
    assert brief.text(["ok", "ok", "diverged"]) == "2 ok, 1 diverged"


def test_a_tensor_under_a_transform_is_told_by_its_shape():
    seen = []
    torch.vmap(lambda x: seen.append(brief.tensor(x)) or x)(torch.zeros(3, 7))
    assert seen == ["float32 (7,)"]


def test_a_density_says_its_first_note_and_all_when_printed():
    found = ode.log_prob(MODEL, GAUSSIAN.sample(3), trace="hutchinson", products=1)
    assert "one probe has no error bar" in repr(found)
    assert "one probe has no error bar" in found._repr_html_()
    assert str(found).count("note: ") == len(found.notes)


def test_a_cursor_says_where_it_waits(made):
    assert isinstance(made["Cursor"], Cursor)
    assert repr(made["Cursor"]) == "Cursor(at=operation 2 of 6, slots=2 tensors)"
