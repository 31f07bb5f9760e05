"""A path of a user's own, one class in one file, wherever a path is taken."""

import json

import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.cli import main

# alpha = 1 - t^p and sigma = t^p: the straight path in another time, so its flows are the same.
SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

import odesolve as ode
from odesolve.paths import Path


@dataclass(frozen=True)
class Bent(Path{name}):
    """A straight path that leaves the data slowly."""

    power: float = 2.0
    t_clip: ClassVar[float] = 0.99
    family: ClassVar[str] = "flow"

    def alpha(self, t):
        return 1 - torch.as_tensor(t, dtype=torch.float64) ** self.power

    def sigma(self, t):
        return torch.as_tensor(t, dtype=torch.float64) ** self.power

    def dalpha(self, t):
        return -self.dsigma(t)

    def dsigma(self, t):
        return self.power * torch.as_tensor(t, dtype=torch.float64) ** (self.power - 1)

    def t_of_lam(self, lam):
        rho = torch.exp(-torch.as_tensor(lam, dtype=torch.float64))
        return (rho / (1 + rho)) ** (1 / self.power)


def steep():
    return Bent(power=3.0)


def factory():
    return ode.problems.gaussian(mean=0.3, std=0.5, shape=(2,)).model(Bent())
'''
TIMES = [0.99, 0.8, 0.55, 0.3, 0.1, 0.0]


@pytest.fixture(params=["", ', name="bent"'], ids=["by its module", "by a name"])
def named(request):
    return request.param


@pytest.fixture
def module(outside, named):
    return outside("own_paths", SOURCE.replace("{name}", named))


def straight(path):
    """The same solve on the straight path, its times those of the path's levels."""
    levels = path.sigma(torch.tensor(TIMES, dtype=torch.float64)).tolist()
    return ode.plan("ddim", paths.Linear(), grid=levels)


def test_plans_and_samples_are_those_of_the_path_it_is(module):
    path = module.Bent()
    plan = ode.plan("ddim", path, grid=TIMES)
    for mine, theirs in zip(plan.instructions, straight(path).instructions, strict=True):
        if hasattr(mine, "weights"):
            assert mine.weights[0] == pytest.approx(theirs.weights[0], rel=1e-12)
    problem = ode.problems.gaussian(mean=0.3, std=0.5, shape=(2,))
    noise = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = ode.sample(problem.model(path), noise, plan=plan)
    expected = ode.sample(problem.model(paths.Linear()), noise, plan=straight(path))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "ipndm_3", "unipc_2", "euler_maruyama"])
@pytest.mark.parametrize("flipped", [False, True])
def test_every_kind_of_solver_plans_on_it(module, solver, flipped):
    path = module.Bent().flipped() if flipped else module.Bent()
    assert ode.plan(solver, path, 4, "karras").law_residual() < 1e-10


def test_its_derivatives_follow_from_those_that_it_defines(module):
    path, t = module.Bent(), torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    torch.testing.assert_close(path.f(t), -2 * t / (1 - t**2))
    torch.testing.assert_close(path.g2(t), 2 * t**2 * (2 * t + 2 * t**3 / (1 - t**2)))
    torch.testing.assert_close(path.t_of_lam(path.lam(t)), t)


def test_plan_files_name_it(module, named):
    path = module.Bent(power=1.5)
    name = "bent" if named else "own_paths:Bent"
    assert path.spec() == {"name": name, "power": 1.5}
    for p in (path, path.flipped()):
        assert paths.from_spec(json.loads(json.dumps(p.spec()))) == p
        text = ode.plan("ddim", p, 5).to_json()
        again = ode.load_plan(text)
        assert again.path == p
        assert again.to_json() == text


def test_a_file_imports_no_module():
    with pytest.raises(ode.OdesolveError, match="'own_paths:Bent' is not known yet: import own_p"):
        paths.from_spec({"name": "own_paths:Bent", "power": 2.0})


@pytest.mark.parametrize("more", [{"power": "2"}, {"powr": 2.0}])
def test_parameters_of_a_file_are_checked(module, named, more):
    with pytest.raises(ode.OdesolveError, match="describes no path"):
        paths.from_spec({**module.Bent().spec(), **more})


@pytest.mark.parametrize("typed", ["own_paths:Bent", "own_paths.py:Bent", "own_paths:steep"])
def test_the_command_line_takes_it(module, typed, capsys):
    assert main(["plan", "ddim", "--path", typed, "--steps", "4", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["path"]
    assert written["power"] == (3.0 if typed.endswith("steep") else 2.0)


def test_the_command_line_knows_names(outside, capsys):
    outside("own_paths", SOURCE.replace("{name}", ', name="bent"'))
    assert main(["plan", "ddim", "--path", "Bent", "--steps", "4"]) == 0
    assert '{"name":"bent","power":2.0}' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("own_paths:Bend", "did you mean 'Bent'"),
        ("own_paths:factory", "returned Model: let it return a path"),
        ("no_such_module:Bent", "No module named"),
        (":Bent", "names no path: give package.module:MyPath"),
        ("bend", "unknown path 'bend'"),
        ("other", "package.module:MyPath"),
        (
            "own_paths:Bent(power=1.5)",
            "write mine = Bent(power=1.5) into the module, and give own_paths:mine",
        ),
        ("vp(beta_max=10)", "write mine = vp(beta_max=10) into the module, and give file.py:mine"),
    ],
)
def test_the_command_line_refuses_others(module, typed, message, capsys):
    assert main(["plan", "ddim", "--path", typed, "--steps", "4"]) != 0
    assert message in capsys.readouterr().err


def test_jobs_take_it(module, tmp_path):
    call = {"solver": "ddim", "steps": 4, "grid": TIMES[1:], "n": 4, "out": tmp_path / "job"}
    first = ode.jobs.sample(module.factory(), (2, 2), **call)
    again = ode.jobs.sample(module.factory(), (2, 2), **call)
    for job in (first, again):
        assert job.load(0, 4)["samples"].shape == (4, 2)


def test_jobs_of_the_command_line_take_it(module, tmp_path):
    words = ["sample", "own_paths:factory", "--shape", "4,2", "--solver", "ddim", "--steps", "4"]
    assert main([*words, "--grid", "uniform", "--out", str(tmp_path / "out.npz")]) == 0


HALF = {"alpha": lambda self, t: 1 - t, "sigma": lambda self, t: t}
FULL = {**HALF, "dalpha": lambda self, t: -1, "dsigma": lambda self, t: 1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (HALF, r"path Mine has neither dalpha\(t\) nor f\(t\).*define one of them"),
        ({**HALF, "f": HALF["alpha"]}, r"path Mine has neither dsigma\(t\) nor g2\(t\)"),
        ({**HALF, "dsigma": HALF["alpha"]}, r"path Mine has neither dalpha\(t\) nor f\(t\)"),
        ({**FULL, "family": "flows"}, "family of the path Mine 'flows': did you mean 'flow'"),
        ({**FULL, "family": ""}, "unknown family of the path Mine"),
    ],
)
def test_what_is_missing_is_said_when_the_class_is_made(body, message):
    with pytest.raises(ode.OdesolveError, match=message):
        type("Mine", (paths.Path,), body)


@pytest.mark.parametrize("inherited", [False, True])
def test_either_of_two_functions_will_do(outside, inherited):
    f = {"f": lambda self, t: -1 / (1 - t), "g2": lambda self, t: 2 * t / (1 - t)}
    base = type("Base", (paths.Path,), f) if inherited else paths.Path
    mine = type("Mine", (base,), HALF if inherited else {**HALF, **f})()
    t = torch.tensor([0.25, 0.5], dtype=torch.float64)
    torch.testing.assert_close(mine.dalpha(t), torch.full_like(t, -1))
    torch.testing.assert_close(mine.dsigma(t), torch.ones_like(t))


@pytest.mark.parametrize("missing", ["alpha", "sigma", "t_of_lam"])
def test_what_a_path_lacks_is_said_when_it_is_asked_for(outside, missing):
    mine = type("Mine", (paths.Path,), {k: v for k, v in FULL.items() if k != missing})()
    with pytest.raises(ode.OdesolveError, match=rf"path Mine has no {missing}\("):
        getattr(mine, missing)(0.5)


def test_a_name_belongs_to_one_class(outside):
    with pytest.raises(ode.OdesolveError, match=r"name 'VP' is that of the path odesolve\.paths"):
        type("Mine", (paths.Path,), FULL, name="VP")
    mine = type("VP", (paths.Path,), FULL)  # without a name of its own it takes none away
    assert paths.from_spec({"name": "VP"}) == paths.VP()
    assert mine.registered.endswith(":VP")
    with pytest.raises(ode.OdesolveError, match="name=3 of the path Mine"):
        type("Mine", (paths.Path,), FULL, name=3)


def test_a_path_that_hides_a_parameter_is_refused(outside):
    def init(self, k):
        object.__setattr__(self, "k", k)

    mine = type("Mine", (paths.Path,), {**FULL, "__init__": init})
    with pytest.raises(ode.OdesolveError, match=r"path Mine keeps k .*@dataclass\(frozen=True\)"):
        ode.plan("ddim", mine(2), grid=[0.9, 0.5, 0.1])


@pytest.mark.parametrize("name", [*paths.TYPED, "VP", "Ddpm", "FLIPPED", "discrete", " vp "])
def test_no_path_of_the_library_is_taken_over(name, outside):
    before = dict(paths.TYPED)
    with pytest.raises(ode.OdesolveError, match="in any case: give Mine another name="):
        type("Mine", (paths.Path,), FULL, name=name)
    assert before == paths.TYPED


def test_a_name_has_no_colon(outside):
    with pytest.raises(ode.OdesolveError, match="name='a:b' of the path Mine: a colon stands"):
        type("Mine", (paths.Path,), FULL, name="a:b")


def test_classes_of_a_module_may_differ_by_case_alone(outside):
    made = {name: type(name, (paths.Path,), FULL) for name in ("Mine", "MINE")}
    for name, kind in made.items():
        assert type(paths.path_named(f"{__name__}:{name}")) is kind


ANEW = {"alpha": lambda self, t: (1 - t) ** 2, "sigma": lambda self, t: t**2}
GENERAL = {name: getattr(paths.Path, name) for name in ("dalpha", "dsigma", "f", "g2", "lam")}


@pytest.mark.parametrize("scale", ["alpha", "sigma"])
@pytest.mark.parametrize("parent", {type(make()): 0 for make in paths.TYPED.values()})
def test_a_scale_that_is_written_anew_takes_no_function_of_the_old_one(parent, scale, outside):
    """Whatever the parent wrote for its own scale is named; taken from the base, it is right."""
    others = {"alpha": ["dalpha", "f", "g2", "lam"], "sigma": ["dsigma", "g2", "lam"]}[scale]
    old = [n for n in others if getattr(parent, n) is not getattr(paths.Path, n)] + ["t_of_lam"]
    with pytest.raises(ode.OdesolveError) as refused:
        type("Mine", (parent,), {scale: ANEW[scale]})
    assert all(f"{name} of " in str(refused.value) for name in old)
    named = str(refused.value).partition(", which belong")[0]
    assert named.count(" of ") == len(old)
    body = {scale: ANEW[scale], f"d{scale}": ANEW[scale], "t_of_lam": parent.t_of_lam}
    type("Mine", (parent,), {**GENERAL, "dalpha": ANEW["alpha"], "dsigma": ANEW["sigma"], **body})


def test_functions_of_a_scale_may_come_from_several_parents(outside):
    halves = [type("A", (), {"alpha": HALF["alpha"]}), type("B", (), {"dalpha": FULL["dalpha"]})]
    body = {name: FULL[name] for name in ("sigma", "dsigma")}
    assert type("Mine", (*halves, paths.Path), body)().f(0.5) == -2


def bent(**wrong):
    """A path whose functions are right, but for these."""
    power = 0.5  # sigma leaves 0 with an infinite slope
    right = {
        "alpha": lambda self, t: 1 - torch.as_tensor(t) ** power,
        "sigma": lambda self, t: torch.as_tensor(t) ** power,
        "dalpha": lambda self, t: -power * torch.as_tensor(t) ** (power - 1),
        "dsigma": lambda self, t: power * torch.as_tensor(t) ** (power - 1),
        "t_of_lam": lambda self, lam: torch.sigmoid(-torch.as_tensor(lam)) ** (1 / power),
        "t_clip": 0.99,
        "family": "flow",
    }
    return type("Bent", (paths.Path,), {**right, **wrong}), right


WRONG = {
    "dalpha": "the derivative of alpha",
    "dsigma": "the derivative of sigma",
    "f": r"alpha'\(t\) / alpha\(t\)",
    "g2": r"2 sigma \(sigma' - f sigma\)",
    "lam": r"log\(alpha\(t\) / sigma\(t\)\)",
    "t_of_lam": r"the t at which lam\(t\) is that",
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("factor", [-1.0, 1.1, 0.0])
@pytest.mark.parametrize("flipped", [False, True])
def test_functions_that_disagree_are_refused_before_a_number_comes_of_them(
    name, factor, flipped, outside
):
    right = bent()[0]()
    wrong, _ = bent(**{name: lambda self, t: factor * getattr(right, name)(t)})
    path = wrong().flipped() if flipped else wrong()
    message = rf"{name}\(.*of the path Bent is .*: define it as {WRONG[name]}"
    with pytest.raises(ode.OdesolveError, match=message):
        ode.plan("ddim", path, 4)
    with pytest.raises(ode.OdesolveError, match=message):
        ode.Model(lambda x, t: x, path, "data")


def test_functions_that_agree_are_looked_at_once(outside):
    asked = []
    alpha = bent()[1]["alpha"]
    path = bent(alpha=lambda self, t: asked.append(t) or alpha(self, t))[0]()
    ode.Model(lambda x, t: x, path, "data")
    looks = len(asked)
    ode.Model(lambda x, t: x, path.flipped(), "data")
    assert len(asked) == looks


@pytest.mark.parametrize("make", paths.TYPED.values(), ids=paths.TYPED)
def test_paths_of_the_library_pass_the_look(make):
    from odesolve.paths import derivatives

    derivatives._check(make())


def test_a_function_that_takes_no_tensor_is_refused(outside):
    path = bent(alpha=lambda self, t: 1 - float(t) ** 0.5)[0]()
    with pytest.raises(ode.OdesolveError, match=r"alpha of the path Bent fails on a tensor of"):
        ode.plan("ddim", path, 4)


@pytest.mark.parametrize("value", ["a", True, (1.0, 2.0), torch.tensor(1.5), None, float("inf")])
def test_a_parameter_that_no_file_gives_back_is_refused(value, outside):
    source = SOURCE.replace("{name}", "").replace(
        "    power: float = 2.0\n", "    power: float = 2.0\n    kind: object = 1\n"
    )
    kind = outside("own_paths", source).Bent
    assert paths.from_spec(kind(kind=2).spec()) == kind(kind=2)
    with pytest.raises(
        ode.OdesolveError, match=r"Bent keeps kind=.* finite numbers: .*define spec"
    ):
        kind(kind=value).spec()
