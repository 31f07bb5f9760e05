"""The Jacobians of the benchmark of traces, which lies outside of the package."""

import importlib.util
from pathlib import Path

FILE = Path(__file__).parents[2] / "benchmarks" / "spectra.py"
_spec = importlib.util.spec_from_file_location("spectra", FILE)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
CASES, SPECTRA = _module.CASES, _module.SPECTRA
one_direction, symmetric = _module.one_direction, _module.symmetric
