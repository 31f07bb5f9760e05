"""Estimators by name, and the one to take where the user does not say."""

from __future__ import annotations

from odesolve.doors.values import whole
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError, short, unknown
from odesolve.trace.auto import AFFORDABLE, Auto
from odesolve.trace.exact import Exact
from odesolve.trace.fourier import Fourier
from odesolve.trace.hutchinson import Hutchinson
from odesolve.trace.hutchpp import HutchPP
from odesolve.trace.protocol import Estimator
from odesolve.trace.xtrace import XTrace

NAMES = {
    "auto": lambda products: (
        Auto(products - products % 2) if products >= 4 else Hutchinson(products)
    ),
    "exact": lambda products: Exact(),
    "hutchinson": Hutchinson,
    "gaussian": lambda products: Hutchinson(products, "gaussian"),
    "orthogonal": lambda products: Hutchinson(products, "orthogonal"),
    "fourier": lambda products: Fourier(products - products % 2),
    "hutchpp": lambda products: HutchPP(products - products % 3),
    "xtrace": lambda products: XTrace(products - products % 2),
}


@fits
def named(name: str | Estimator, dim: int, products: int) -> Estimator:
    """The estimator of this name with at most this many Jacobian products per evaluation, for
    samples of ``dim`` numbers.

    With as many products as numbers, or more, the trace is exact, which costs no more. "auto" is
    exact for up to 4 numbers per product, see ``Auto``, and Hutchinson below 4 products. An
    estimator passes through unchanged. Raises OdesolveError for unknown names.
    """
    if not isinstance(name, str):
        if not hasattr(name, "begin") or isinstance(name, type):
            raise OdesolveError(
                f"trace={short(name)}: give a name such as 'auto', or an estimator such as "
                "trace.XTrace(24)"
            )
        return name
    products = whole("products", products, 1)
    if name not in NAMES:
        raise unknown("trace", name, list(NAMES))
    if products >= dim or (name == "auto" and dim <= AFFORDABLE * products):
        return Exact()
    return NAMES[name](products)
