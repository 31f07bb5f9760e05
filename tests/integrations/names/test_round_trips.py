"""Names go to other programs and back unchanged."""

from __future__ import annotations

import pytest

from odesolve.errors import OdesolveError
from odesolve.integrations import names
from odesolve.integrations.names_table import LACKING_CLASSES, LACKING_LABELS, LACKING_SAMPLERS, ROWS, SCHEDULES
from odesolve.solvers import REGISTRY


def label(row) -> str:
    return f"{row.solver}-{'-'.join(map(str, row.options.values()))}-{row.schedule}"


def options(row) -> tuple:
    return tuple(sorted(row.options.items()))


@pytest.mark.parametrize("row", ROWS, ids=label)
def test_every_row_is_a_solver_with_options_that_are_not_its_defaults(row):
    entry = REGISTRY[row.solver]
    assert all(entry.options[k] != v for k, v in row.options.items())
    assert any((row.diffusers, row.flow, row.label, row.comfy))


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("row", ROWS, ids=label)
def test_diffusers_and_back(row, flow):
    if (row.flow if flow else row.diffusers) is None:
        with pytest.raises(OdesolveError, match=r"diffusers has no"):
            names.to_diffusers(row.solver, row.options, flow=flow)
        return
    steps = 8 if row.options.get("taper") else 50  # DEIS and DPM-Solver++(3M) taper short solves only
    for schedule, (_, _, config) in SCHEDULES.items():
        if config is None or (flow and "timestep_spacing" in config) or (schedule == "flow") > flow:
            continue
        made = names.to_diffusers(row.solver, row.options, schedule, flow)
        back = names.from_diffusers(*made, steps=steps)
        wanted = "flow" if flow and schedule == "normal" else schedule
        if schedule == "normal" and made[0].startswith("DDPM"):
            wanted = "ddim_uniform"
        assert back == names.Named(row.solver, options(row), wanted)
