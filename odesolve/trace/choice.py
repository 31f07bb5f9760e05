"""Estimators by name, and the one to take where the user does not say."""

from __future__ import annotations

from odesolve.errors import OdesolveError, unknown
from odesolve.trace.exact import Exact
from odesolve.trace.hutchinson import Hutchinson
from odesolve.trace.hutchpp import HutchPP
from odesolve.trace.protocol import Estimator
from odesolve.trace.xtrace import XTrace

NAMES = {
    "exact": lambda products: Exact(),
    "hutchinson": Hutchinson,
    "gaussian": lambda products: Hutchinson(products, "gaussian"),
    "orthogonal": lambda products: Hutchinson(products, "orthogonal"),
    "hutchpp": lambda products: HutchPP(products - products % 3),
    "xtrace": lambda products: XTrace(products - products % 2),
}


def named(name: str | Estimator, dim: int, products: int) -> Estimator:
    """The estimator of this name with at most this many Jacobian products an evaluation, for samples of ``dim`` numbers.

    "auto" is exact where dim <= 4 products, else XTrace from 12 products on and Hutchinson below; never Hutch++, which
    is worse where the noise is low. An estimator is returned as it is. OdesolveError for names that there are not.
    """
    if not isinstance(name, str):
        if not hasattr(name, "begin"):
            raise OdesolveError(f"trace={name!r}: give a name such as 'auto', or an estimator such as trace.XTrace(24)")
        return name
    if products < 1:
        raise OdesolveError(f"products={products}: give at least 1")
    if name == "auto":
        if dim <= 4 * products:
            return Exact()
        name = "xtrace" if products >= 12 else "hutchinson"
    if name not in NAMES:
        raise unknown("trace", name, ["auto", *NAMES])
    return NAMES[name](products)
