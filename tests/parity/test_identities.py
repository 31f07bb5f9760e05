"""Samplers that several papers found are one sampler: their plans have the same coefficients."""

import pytest

import odesolve as ode
from odesolve import grids, paths
from tests.products import diagonal
from tests.rows import rows

ROUNDING = 1e-12
RAMP = {"start": "ramp"}
PATHS = {
    "vp": paths.VP(),
    "ddpm": paths.Discrete.ddpm(),
    "subvp": paths.SubVP(),
    "ve": paths.VE(),
    "edm": paths.EDM(),
    "linear": paths.Linear(),
    "trig": paths.Trig(),
}
# Noise levels from 20 to 0.02 and then the data; VE never gets there and stops at its smallest one.
LEVELS = (20.0, 9.0, 4.0, 1.5, 0.6, 0.2, 0.02)

EVERYWHERE = [
    ("ddim", {}, "dpm_solver_1", {}),
    ("ddim", {}, "euler", {"clock": "rho"}),
    ("ddim", {}, "euler", {"clock": "snr"}),
    ("heun_edm", {}, "heun", {"clock": "rho"}),
    ("heun_edm", {}, "dpm_solver_2", {"r": 1.0}),
    ("dpmpp_2s", {"r": 1.0}, "heun", {"clock": "snr"}),
    ("deis_rhoab1", {}, "ab2", {"clock": "rho"}),
    ("deis_rhoab2", RAMP, "ab3", {"clock": "rho", **RAMP}),
    ("deis_rhoab2", RAMP, "ipndm_v3", RAMP),
    ("deis_rhoab3", RAMP, "ipndm_v4", RAMP),
]
# Where time is the noise level, methods in t are methods in rho.
ON_EDM = [
    ("euler", {}, "ddim", {}),
    ("heun", {}, "heun_edm", {}),
    ("deis_tab1", {}, "ab2", {}),
    ("deis_tab2", RAMP, "ab3", RAMP),
    ("deis_tab1", {}, "deis_rhoab1", {}),
    ("deis_tab3", RAMP, "deis_rhoab3", RAMP),
]
# The first two steps of multistep methods that differ from the third on.
TWO_STEPS = [
    ("res_2m", {}, "dpmpp_3m", RAMP),
    ("res_2m", {}, "dpmpp_3m_published", {"second": "heun"}),
    ("dpmpp_2m", {}, "dpmpp_3m_published", {"second": "midpoint"}),
    ("unipc_2", {}, "unipc_3", RAMP),
    ("deis_lamab1", {}, "deis_lamab2", RAMP),
]


def label(row) -> str:
    return "-".join(
        str(v) for part in row for v in (part.values() if isinstance(part, dict) else (part,))
    )


def levels(path, values=LEVELS):
    return grids.sigmas(path, values if isinstance(path, paths.VE) else (*values, 0.0))


def difference(row, path, grid) -> float:
    first, options, second, other = row
    found = ode.plan(first, path, grid=grid, **options).diff(
        ode.plan(second, path, grid=grid, **other)
    )
    return found.largest


@rows("path", PATHS.values(), ids=PATHS)
@rows("row", EVERYWHERE, ids=label)
def test_one_sampler_on_every_path(row, path):
    assert difference(row, path, levels(path)) < ROUNDING


@rows("row", ON_EDM, ids=label)
def test_one_sampler_where_time_is_the_noise_level(row):
    assert difference(row, paths.EDM(), levels(paths.EDM())) < ROUNDING


@rows("path", PATHS.values(), ids=PATHS)
@rows("row", TWO_STEPS, ids=label)
def test_one_sampler_for_two_steps(row, path):
    assert difference(row, path, grids.sigmas(path, (9.0, 1.5, 0.2))) < ROUNDING


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_euler_on_straight_paths_is_ddim(steps):
    """From alpha = 0 to sigma = 0, where neither the noise nor its log-SNR exists."""
    for path in (paths.Linear(), paths.Linear(0.1), paths.Linear().flipped()):
        assert ode.plan("euler", path, steps).diff(ode.plan("ddim", path, steps)).same()


@rows("name", [n for n, s in ode.solvers().items() if s.clock == "lambda"])
def test_one_step_to_the_data_is_the_data_prediction(name):
    for path in PATHS.values():
        if float(path.sigma(path.t_data)) == 0.0:
            _, result = ode.plan(name, path, 1).matrix()
            assert result.pop("D1") == pytest.approx(1.0, abs=ROUNDING)
            assert all(abs(w) < ROUNDING for w in result.values())


def unscaled(plan: ode.Plan) -> list[dict[str, float]]:
    """The plan's coefficients in x / alpha, in which the path no longer occurs."""
    inputs, result = plan.matrix()
    alphas = [p.alpha for p in plan.path.points([*(e.t for e in plan.evaluations), plan.grid[-1]])]
    first = plan.path.point(plan.grid[0]).alpha
    rows = zip([*inputs, result], alphas, strict=True)
    return [{k: w / a * (first if k == "x0" else 1.0) for k, w in row.items()} for row, a in rows]


@rows(
    ("name", "path"),
    diagonal(
        [n for n, s in ode.solvers().items() if s.clock in ("lambda", "lam", "rho")],
        [p for n, p in PATHS.items() if n != "edm"],
        times=2,
    ),
)
def test_methods_in_log_snr_are_one_sampler_on_all_paths(name, path):
    """The same noise levels, the same coefficients: a network can be sampled on another path than
    its own."""
    mine, other = (
        unscaled(ode.plan(name, p, grid=grids.sigmas(p, LEVELS))) for p in (path, paths.EDM())
    )
    for a, b in zip(mine, other, strict=True):
        assert a.keys() == b.keys()
        assert all(abs(a[k] - b[k]) < ROUNDING * max(map(abs, b.values())) for k in a)


@rows(
    ("name", "path"),
    diagonal(list(ode.solvers()), list(PATHS.values()), times=2),
)
def test_a_flipped_path_has_the_same_plan(name, path):
    grid = grids.sigmas(path, LEVELS)
    flipped = grids.Listed(values=tuple(path.t_max - t for t in grid.values))
    plan, mirrored = ode.plan(name, path, grid=grid), ode.plan(name, path.flipped(), grid=flipped)
    # t_max - t rounds the times of EDM, which reach to 80
    assert plan.diff(mirrored).largest < 1e-10
