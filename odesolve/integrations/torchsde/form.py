"""An equation in torchsde's form, as the steps of the library call it: flat states (B, D), in
operations that autograd records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from odesolve.adjoint.targets import leaves_of
from odesolve.errors import OdesolveError, unknown
from odesolve.functions.callee import Callee
from odesolve.functions.graphs import Followed
from odesolve.functions.pairing import converted
from odesolve.functions.torch_func import refuse
from odesolve.integrations.torchsde.base import check_types
from odesolve.stochastic.derivative import along, along_columns

METHODS = {
    "drift": "f",
    "diffusion": "g",
    "prior_drift": "h",
    "diffusion_prod": "g_prod",
    "drift_and_diffusion": "f_and_g",
    "drift_and_diffusion_prod": "f_and_g_prod",
}
SMALLEST = 1e-7  # of the diffusion that divides the difference of two drifts


class EquationForm:
    """Drift and diffusion of ``sde``, whichever of f, g, g_prod, f_and_g and f_and_g_prod it has.

    Its methods see t without dimensions, in the type and on the device of the output times, and
    states (B, ...) of the shape of y0. g is (B, ...) for diagonal noise, otherwise (B, ..., m).
    With ``logqp`` the state has one more element, the integral of |u|^2 / 2 with g u = f - h.
    Raises OdesolveError for an equation that lacks what it needs.
    """

    def __init__(
        self,
        sde: Any,
        names: Mapping[str, str] | None,
        y0: Tensor,
        times: Tensor,
        logqp: bool,
    ):
        for name in ("noise_type", "sde_type"):
            if not hasattr(sde, name):
                raise OdesolveError(
                    f"sde has no {name}: give its class noise_type='diagonal' and sde_type='ito', "
                    "or others"
                )
        check_types(sde.noise_type, sde.sde_type)
        self.noise_type = sde.noise_type
        self.calculus = sde.sde_type
        self.logqp = logqp
        self.diagonal = sde.noise_type == "diagonal"
        self.noise = "diagonal" if self.diagonal else "general"  # what the library calls it
        self.shape = y0.shape[1:]
        self.batch = y0.shape[0]
        self.times = times
        self.space = self
        self.dtype = y0.dtype
        self.complex = y0.is_complex()
        self._flat = y0.dim() == 2
        self._known = {}
        self._of = _methods(sde, names)
        if logqp:
            if self.complex:
                raise OdesolveError(
                    "logqp=True compares laws of real states: give torch.view_as_real(y0), and f, "
                    "g and h of it"
                )
            if self._of.f is None or self._of.g is None or self._of.h is None:
                raise OdesolveError(
                    "logqp=True compares two drifts: give sde f, g and h, the prior's drift (or "
                    "their names=)"
                )
            # the ratio asks for both alone
            self._of = self._of._replace(g_prod=None, f_and_g=None, f_and_g_prod=None)

    def flat(self, y: Tensor) -> Tensor:
        """A state (B, ...) as (B, D), with a zero for the log-ratio where the solve has one."""
        out = y.reshape(self.batch, -1)
        if self.logqp:
            return torch.cat([out, out.new_zeros(self.batch, 1)], 1)
        return out

    def open(self, y: Tensor) -> Tensor:
        """States (..., B, D) in the shape of y0, without their log-ratio."""
        y = y[..., :-1] if self.logqp else y
        return y.reshape(*y.shape[:-1], *self.shape)

    def know(self, times: Sequence[Any]) -> None:
        """Move times to the device in one copy. Any other time makes the host wait for the
        device."""
        table = torch.tensor(
            [float(t) for t in times], dtype=self.times.dtype, device=self.times.device
        )
        self._known = dict(zip(times, table.unbind(), strict=True))

    def time(self, t: Any) -> Tensor:
        """A time as the methods take it."""
        if isinstance(t, Tensor):
            return t
        if t in self._known:
            return self._known[t]
        return torch.tensor(float(t), dtype=self.times.dtype, device=self.times.device)

    def measure(self, t: Any, y: Tensor, motions: int | None) -> int:
        """The number of Brownian motions per sample; ``motions`` is the number in the user's path.
        Raises OdesolveError where f or g do not fit the state."""
        if self._of.g is not None or self._of.f_and_g is not None:
            f, g = (
                self.pair(self.time(t), y)
                if self._has_drift(alone=False)
                else (None, self.matrix(self.time(t), y))
            )
        elif motions is None:
            raise OdesolveError(
                "sde has products with its diffusion only: give it g or f_and_g, or give bm=, to "
                "tell the noise"
            )
        elif self._of.g_prod is None and self._of.f_and_g_prod is None:
            raise OdesolveError(
                "sde has no diffusion: give it g, f_and_g, g_prod or f_and_g_prod (or their names=)"
            )
        else:
            f = None
            g = None
            self.both(y, self.time(t), y.new_ones(self.batch, motions))
        if f is None and not self._has_drift(alone=True):
            raise OdesolveError(
                "sde has no drift: give it f, f_and_g or f_and_g_prod (or their names=)"
            )
        columns = motions if g is None else g.shape[-1]
        assert columns is not None
        if motions is not None and motions != columns:
            raise OdesolveError(
                f"bm has {motions} Brownian motions per sample, and g of sde has {columns}: give "
                f"bm of size (B, {columns})"
            )
        if (
            self.noise_type == "additive"
            and g is not None
            and not torch.equal(g, self.matrix(t, y + 1 + y.abs()))
        ):
            raise OdesolveError(
                "g of additive noise returned another value at another y: give sde "
                "noise_type='general', or a g of t alone"
            )
        if self.noise_type == "scalar" and columns != 1:
            raise OdesolveError(
                f"g has {columns} columns: scalar noise is one Brownian motion, g "
                "of shape (B, ..., 1)"
            )
        return columns

    def _has_drift(self, alone: bool) -> bool:
        of = self._of
        product = of.f_and_g_prod if alone else None
        return any(method is not None for method in (of.f, of.f_and_g, product))

    def f(self, x: Tensor, t: Any) -> Tensor:
        """The drift, (B, D)."""
        t = self.time(t)
        if self.logqp:
            return self.pair(t, x)[0]
        if self._of.f is not None:
            return self._state(self._of.f(t, self._in(x)), "f")
        return self.pair(t, x)[0]

    def matrix(self, t: Any, x: Tensor) -> Tensor:
        """The diffusion, (B, D) for diagonal noise, otherwise (B, D, m)."""
        t = self.time(t)
        if self._of.g is not None:
            g = self._columns(self._of.g(t, self._in(x)))
            return self._widened(g) if self.logqp else g
        return self.pair(t, x)[1]

    def pair(self, t: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Drift and diffusion."""
        t = self.time(t)
        if self.logqp:
            return self._compared(t, x)
        if self._of.f_and_g is not None:
            f, g = self._of.f_and_g(t, self._in(x))
            return self._state(f, "f_and_g"), self._columns(g)
        if self._of.f is None or self._of.g is None:
            raise OdesolveError(
                "this method asks for drift and diffusion: give sde f and g, or f_and_g (or their "
                "names=)"
            )
        return self.f(x, t), self.matrix(t, x)

    def both(self, x: Tensor, t: Any, w: Tensor) -> tuple[Tensor, Tensor]:
        """The drift, and the diffusion times an increment (B, m)."""
        t = self.time(t)
        if self._of.f_and_g_prod is not None:
            f, moved = self._of.f_and_g_prod(t, self._in(x), self._increment(w))
            return self._state(f, "f_and_g_prod"), self._state(moved, "f_and_g_prod")
        if self._of.f is not None and self._of.g_prod is not None:
            return self.f(x, t), self.product(t, x, w)
        f, g = self.pair(t, x)
        return f, self.times_increment(g, w)

    def product(self, t: Any, x: Tensor, w: Tensor) -> Tensor:
        """The diffusion times an increment."""
        if self._of.g_prod is not None:
            return self._state(
                self._of.g_prod(self.time(t), self._in(x), self._increment(w)), "g_prod"
            )
        if self._of.g is None and self._of.f_and_g is None:
            return self.both(x, t, w)[1]
        return self.times_increment(self.matrix(t, x), w)

    def g(self, t: Any, x: Tensor) -> Product:
        """The diffusion as what multiplies an increment."""
        return Product(lambda w: self.product(t, x, w))

    def times_increment(self, g: Tensor, w: Tensor) -> Tensor:
        """g w for a diffusion as ``matrix`` gives it."""
        if self.diagonal:
            return g * w
        w = w.to(g.dtype) if self.complex else w
        return torch.bmm(g, w.unsqueeze(-1)).squeeze(-1)

    def spread(self, a: Tensor, w: Tensor) -> Tensor:
        """The gradient of g from that of g w."""
        w = w.conj()
        if self.diagonal:
            return a * w
        return a.unsqueeze(-1) * w.unsqueeze(-2)

    def tensor_of(self, x: Tensor) -> Tensor:
        """The value itself."""
        return x

    def along_itself(self, t: Any, x: Tensor, w: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """g w and sum_k (dg_k/dy) g_k v_k; with diagonal noise an element of g depends on its own
        element of y alone."""
        if self.noise_type == "additive":
            return self.product(t, x, w), torch.zeros_like(x)
        y, g = self._recorded(t, x)
        moved = self.times_increment(g, w)
        second = torch.zeros_like(x)
        if (
            self.diagonal and self.complex
        ):  # whose elements have Jacobians of their two parts, not equal to their transposes
            second = along(g, y, g * v)
        elif self.diagonal and g.requires_grad:
            record = torch.is_grad_enabled()
            (gradient,) = torch.autograd.grad(
                g, y, g * v, create_graph=record, retain_graph=True, allow_unused=True
            )
            second = second if gradient is None else gradient
        elif not self.diagonal:
            second = along_columns(g, y, g * v.unsqueeze(-2))
        return _needed(moved, x, y), _needed(second, x, y)

    def bracket(self, t: Any, x: Tensor, area: Tensor) -> Tensor:
        """sum_kl (dg_l/dy) g_k A_kl, which is 0 where the columns of g commute."""
        if self.noise_type != "general":
            return torch.zeros_like(x)
        y, g = self._recorded(t, x)
        return _needed(along_columns(g, y, torch.bmm(g, area.to(g.dtype))), x, y)

    def correction(self, t: Any, x: Tensor, g: Tensor, circular: bool) -> Tensor:
        """Ito's drift minus Stratonovich's, sum_k (dg_k/dy) g_k / 2, for g computed from x with
        autograd.

        A ``circular`` motion is two real ones with g / sqrt 2 and i g / sqrt 2: where g is
        holomorphic the correction is zero."""
        take = along if self.diagonal else along_columns
        if not circular:
            return 0.5 * take(g, x, g)
        return 0.25 * (take(g, x, g) + 1j * take(g, x, 1j * g))

    def _recorded(self, t: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        refuse("the state, by which this method differentiates g,", x)
        with torch.enable_grad():
            y = x if x.requires_grad else x.detach().requires_grad_()
            return y, self.matrix(t, y)

    def _in(self, x: Tensor) -> Tensor:
        x = x[:, :-1] if self.logqp else x
        if self._flat:
            return x
        return x.reshape(self.batch, *self.shape)

    def _increment(self, w: Tensor) -> Tensor:
        if self._flat or not self.diagonal:
            return w
        return w.reshape(self.batch, *self.shape)

    def _state(self, out: Any, name: str) -> Tensor:
        if not isinstance(out, Tensor) or out.shape != (self.batch, *self.shape):
            raise OdesolveError(
                f"{name} of sde returned {_form(out)}: return a tensor "
                f"{(self.batch, *self.shape)}, as y0 is"
            )
        out = self._alike(out, name)
        if self._flat:
            return out
        return out.reshape(self.batch, -1)

    def _alike(self, out: Tensor, name: str) -> Tensor:
        """A value that is complex where the state is. Raises OdesolveError for complex values of a
        real state."""
        if out.is_complex() == self.complex:
            return out
        instead = f"give y0 as {out.dtype} numbers, or let it return real ones"
        return converted(out, self.dtype, f"the result of {name} of sde", instead)

    def _columns(self, out: Any) -> Tensor:
        want = (self.batch, *self.shape)
        if self.diagonal:
            return self._state(out, "g")
        dims = len(want) + 1
        if not isinstance(out, Tensor) or out.dim() != dims or out.shape[:-1] != want:
            raise OdesolveError(
                f"g of sde returned {_form(out)}: return a tensor {(*want, 'm')} for "
                f"{self.noise_type} noise"
            )
        out = self._alike(out, "g")
        if self._flat:
            return out
        return out.reshape(self.batch, -1, out.shape[-1])

    def _compared(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self._in(x)
        assert self._of.f is not None
        assert self._of.g is not None
        assert self._of.h is not None
        f = self._state(self._of.f(t, y), "f")
        g = self._columns(self._of.g(t, y))
        h = self._state(self._of.h(t, y), "h")
        if self.diagonal:
            sign = torch.where(g.detach() < 0, -1.0, 1.0).to(g.dtype)
            u = (f - h) / torch.where(g.abs().detach() > SMALLEST, g, SMALLEST * sign)
        else:
            gap = (f - h).unsqueeze(-1)
            u = torch.bmm(torch.linalg.pinv(g), gap).squeeze(-1)
        rate = 0.5 * u.square().sum(1, keepdim=True)
        return torch.cat([f, rate], 1), self._widened(g)

    def _widened(self, g: Tensor) -> Tensor:
        row = g.new_zeros(self.batch, 1, *g.shape[2:])
        return torch.cat([g, row], 1)


class Product:
    """A linear map of increments, and sums of such."""

    def __init__(self, apply: Callable[[Tensor], Tensor]):
        self.apply = apply

    def __mul__(self, w: Tensor) -> Tensor:
        return self.apply(w)

    def __rmul__(self, factor: float) -> Product:
        return Product(lambda w: self.apply(factor * w))

    def __sub__(self, other: Product) -> Product:
        return Product(lambda w: self.apply(w) - other.apply(w))


def _needed(out: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A value without the graph for its derivative by y, unless something else needs gradients of
    it."""
    if torch.is_grad_enabled() and (x is y or any(leaf is not y for leaf in leaves_of(out))):
        return out
    return out.detach()


Method = Callable[..., Any] | None


class _Methods(NamedTuple):
    """The methods of sde for drift and diffusion."""

    f: Method
    g: Method
    h: Method
    g_prod: Method
    f_and_g: Method
    f_and_g_prod: Method


def _methods(sde: Any, names: Mapping[str, str] | None) -> _Methods:
    given = dict(names or {})
    for key, name in given.items():
        if key not in METHODS:
            raise unknown("key of names", key, METHODS)
        if not hasattr(sde, name):
            raise OdesolveError(
                f"names[{key!r}] is {name!r}, which sde does not have: give the name of one of "
                "its methods"
            )
    called = [given.get(key, name) for key, name in METHODS.items()]
    methods = []
    for name in called:
        method = getattr(sde, name, None)
        if method is not None:
            method = _followed(Callee(method, name, several=True), name)
        methods.append(method)
    return _Methods(*methods)


def _followed(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A method of sde that must not hide from autograd how it depends on y."""
    follower = Followed(f"{name} of sde")

    def call(t: Tensor, y: Tensor, *rest: Tensor) -> Any:
        if y.requires_grad:
            return follower(lambda y: method(t, y, *rest), y)
        return method(t, y, *rest)

    return call


def _form(out: Any) -> object:
    if isinstance(out, Tensor):
        return tuple(out.shape)
    return type(out).__name__


def seconds(times: Tensor) -> list[Any]:
    """Times as numbers of their own type, so that sums round as the tensor's do."""
    wide = times if times.dtype in (torch.float32, torch.float64) else times.float()
    return list(np.asarray(wide.cpu()))
