"""``odesolve names``: from any name of a sampler to all the others."""

import json

from odesolve.cli import main
from tests.rows import rows


def run(capsys, *words):
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@rows("name", ["DPM++ 2M SDE Karras", "dpm++ 2m sde karras", "dpmpp_2m_sde karras"])
def test_every_name_of_a_sampler(capsys, name):
    code, out, _ = run(capsys, "names", name, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["odesolve"] == "dpmpp_2m_sde"
    assert found["comfyui"] == ["dpmpp_2m_sde", "karras"]
    cls, config = found["diffusers"]
    assert cls == "DPMSolverMultistepScheduler"
    assert config["algorithm_type"] == "sde-dpmsolver++"
    assert config["use_karras_sigmas"] is True
    assert found["a1111"] == "DPM++ 2M SDE Karras"


def test_a_class_of_diffusers(capsys):
    code, out, _ = run(capsys, "names", "HeunDiscreteScheduler")
    assert code == 0
    assert "heun_edm" in out


def test_a_config_with_a_function(capsys):
    """SA-Solver's amount of noise is one in diffusers."""
    code, out, _ = run(capsys, "names", "SASolverScheduler", "--json")
    assert code == 0
    assert json.loads(out)["odesolve"].startswith("sa_solver")


def test_the_table(capsys):
    code, out, _ = run(capsys, "names")
    assert code == 0
    assert "UniPCMultistep" in out


def test_an_unknown_name(capsys):
    code, _, err = run(capsys, "names", "DPM+++ 2M")
    assert code == 2
    assert "DPM++ 2M" in err
