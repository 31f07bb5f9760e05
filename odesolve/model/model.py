"""A user's network and how to read it: prediction type, time and input scaling, guidance, and what
is done to x0."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.annotations import samples
from odesolve.doors.convention import STATE, TIME, check_network, check_order
from odesolve.doors.keywords import door
from odesolve.doors.values import real, short
from odesolve.doors.words import fits_as
from odesolve.errors import OdesolveError, unknown
from odesolve.functions.callee import Callee, shielded
from odesolve.functions.graphs import answer
from odesolve.functions.torch_func import refuse_inside, watching
from odesolve.lowering import scales
from odesolve.lowering.lower import Reading
from odesolve.model import guidance, transforms
from odesolve.model.checks import (
    check_arguments,
    check_times,
    checked,
    missing,
    refuse_call,
    told_times,
)
from odesolve.model.conditions import Cond, own, rows, shared_of, stackable, stacked
from odesolve.model.predictions import (
    Coefficients,
    coefficients,
    gradient_of,
    parameter_dtype,
    predicted,
)
from odesolve.model.reading_text import default_time
from odesolve.model.settling import settle
from odesolve.model.text import typed_model
from odesolve.paths import Path, no_path, prediction_named

TIMES = ("t", "index", "sigma", "c_noise")
STRIDED = torch.strided
_PLAIN = ("cond",)
KEPT_TIMES = 64  # grids


class Model:
    """``net(x, t, **cond)`` together with the path it was trained on and what it predicts.

    Args:
        net: any callable; x has shape (B, ...), t shape (B,), the result has the shape of x.
        path: the probability path of training; data at t = 0. Give ``path.flipped()`` if it was
            trained with data at 1.
        predicts: "data" (x0), "noise" (eps), "v" (alpha eps - sigma x0), "velocity" (dx/dt in the
            path's time), "score" or "edm" (the raw network of EDM's preconditioning); or a word for
            these: "epsilon", "x0", "flow", ...
        time: what the network gets as t: "t" (times ``time_scale``), "index" (t N - 1 on a table of
            N steps), "sigma" (sigma/alpha), "c_noise" (log(sigma/alpha)/4) or a function (path, t)
            -> tensor. By default "index" on a Discrete path, "c_noise" for "edm", else "t".
        time_scale: factor on "t", such as 1000 for flow models trained on 0..1000.
        input_scale: None, "edm" or "unit": divide x by its standard deviation for data of deviation
            ``sigma_data`` or 1.
        sigma_data: standard deviation of the data, for "edm".
        dtype: dtype of the network's input; by default that of its parameters, else the state's.
        snap: move grids onto the training times of a Discrete path (by default where the path is
            discrete).
        clip: clamp x0 to [-clip, clip] after each evaluation.
        learned_variance: the network's second half of channels interpolates between two
            log-variances of a DDPM step (Nichol and Dhariwal 2021); used by
            ``ddpm(variance="learned")``, dropped by every other solver.
        threshold: dynamic thresholding quantile of |x0| in each sample (Saharia et al. 2022), with
            ``clip`` as its floor.
        cond: keyword arguments of every call.

    Raises OdesolveError for an unknown prediction or time.
    """

    @door("ode.Model", net=None, path=None)  # whose own words say more
    def __init__(
        self,
        net: Callable[..., Tensor],
        path: Path,
        predicts: str | None = None,
        *,
        time: str | Callable[[Path, Tensor], Tensor] | None = None,
        time_scale: float = 1.0,
        input_scale: str | None = None,
        sigma_data: float = 0.5,
        dtype: torch.dtype | None = None,
        snap: bool | None = None,
        clip: float | None = None,
        threshold: float | None = None,
        learned_variance: bool = False,
        cond: Cond | None = None,
    ):
        check_network(net, time)
        if not isinstance(path, Path):
            raise no_path(path)
        predicts = prediction_named(predicts)
        if input_scale not in (None, "edm", "unit"):
            raise unknown("input_scale", input_scale, ("edm", "unit"))
        check_arguments(net, locals())
        self.net = net
        self.path = path
        self.cond = dict(cond or {})
        self.time = time if time is not None else default_time(path, predicts)
        if not callable(self.time) and self.time not in TIMES:
            raise unknown("time", self.time, TIMES)
        self.time_scale = time_scale
        self.dtype = dtype if dtype is not None else parameter_dtype(net)
        self.snap = snap if snap is not None else path.training_steps is not None
        scale = input_scale or ("edm" if predicts == "edm" else None)
        self.functions = transforms.data_transforms(clip, threshold)
        # see objectives.FlowMap
        applies = tuple(self.functions)
        two_times = getattr(net, "two_times", False)
        self.reading = Reading(
            predicts,
            sigma_data,
            scale,
            applies=applies,
            variance=learned_variance,
            two_times=two_times,
        )
        self._door = Callee(net, "the network", at=0)
        self._judge = Callee(net, "the classifier", at=0)
        self._kept_times: dict[tuple, Tensor] = {}
        self._uncond: dict[str, Any] | None = None
        self._classifier: Callable[..., Tensor] | None = None
        self._labels: dict[str, Any] = {}
        self._strengths: dict[str, Tensor] = {}  # scales of guidance, one a sample
        self._shared: list[Any] = []  # conditions of all samples, known by a cut of the batch

    def __getattr__(self, name: str) -> Any:
        raise missing(name, self.__dict__.get("net"))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: a model's answer is ``data(x, t)``, ``noise``, ``score``, ``velocity``, ``v`` or
        ``edm``."""
        refuse_call()

    def __repr__(self) -> str:
        return typed_model(self)

    @property
    def predicts(self) -> str:
        """The network's prediction type."""
        return self.reading.prediction

    @property
    def branches(self) -> tuple[str, ...]:
        """Everything that one evaluation inside the guidance's interval asks of the network, in
        order."""
        return tuple(self.mixed(True))

    def given(self, **cond: Any) -> Model:
        """The model with these conditions in the place of those of the same names."""
        out = object.__new__(type(self))  # copy.copy, in words that torch.compile understands
        out.__dict__.update(self.__dict__, cond={**self.cond, **cond})
        return out

    def rows(self, index: Tensor, batch: int) -> Model:
        """The model for these samples (n,) of a batch: conditions with one value a sample are cut
        to theirs."""
        out = copy.copy(self)
        before = self._shared
        out._shared = shared_of((self.cond, self._uncond or {}, self._labels), batch, before)
        out.cond = rows(self.cond, index, batch, before)
        out._uncond = None if self._uncond is None else rows(self._uncond, index, batch, before)
        out._labels = rows(self._labels, index, batch, before)
        out._strengths = scales.cut(self._strengths, index, batch) if self._strengths else {}
        cut = {
            k: f.rows(index, batch) if isinstance(f, transforms.ROWS) else f
            for k, f in self.functions.items()
        }
        out.functions = cut
        return out

    def shared(self, call: Callable[..., Sequence[Tensor]], *rows: Tensor) -> list[Tensor]:
        """``call(*rows)``, whose answers hold a row for each of the rows: for models whose rows are
        spread over ranks."""
        return list(call(*rows))

    def settled(self) -> Model:
        """A copy whose conditions lie in memory of their own, for a captured graph that reads them
        where they are."""
        out = copy.copy(self)
        out.cond = own(self.cond)
        out._uncond = None if self._uncond is None else own(self._uncond)
        out._strengths = own(self._strengths)
        return out

    def settle(self, other: Model) -> str | None:
        """Copy the conditions of ``other`` into our memory; where it is another kind of model, why
        that cannot be done."""
        return settle(self, other)

    @property
    def held(self) -> list[Any]:
        """The tensors that it was given besides those of the network."""
        return [
            self.cond,
            self._uncond or {},
            self._labels,
            self._strengths,
            *map(vars, self.functions.values()),
        ]

    @property
    def evaluations_per_call(self) -> int:
        """Network evaluations that one evaluation of the guided model takes."""
        return 2 if self.reading.guidance and self.reading.guidance.scale != 1.0 else 1

    @door("model.guided")
    def guided(
        self,
        scale: float | Tensor | Callable[[Tensor], Any],
        cond: Cond | None = None,
        uncond: Cond | None = None,
        *,
        rescale: float = 0.0,
        interval: tuple[float, float] | None = None,
    ) -> Model:
        """Classifier-free guidance: uncond + scale (cond - uncond); scale 1 is the conditional
        model (Ho, Salimans 2022).

        ``scale`` is a number, one a sample (B,), or a function of the path's time: it gets one
        time, a float64 tensor without dimensions, and returns a number; where that is 1 the
        unconditional branch is not asked. A solve asks it when it plans. ``rescale`` pulls the
        standard deviation of each sample back to the conditional one's (Lin et al. 2024, eq. 16),
        ``interval`` = (t_low, t_high) guides only there (Kynkaanniemi et al. 2024)."""
        return guidance.classifier_free(self, scale, cond, uncond, rescale, interval)

    @door("model.classifier_guided")
    def classifier_guided(
        self,
        log_prob: Callable[..., Tensor],
        scale: Any = 1.0,
        cond: Cond | None = None,
    ) -> Model:
        """Classifier guidance: the noise prediction shifted by -scale sigma grad log p(y|x)
        (Dhariwal and Nichol 2021).

        ``log_prob(x, t, **cond)`` gives shape (B,): log p(y | x_t), at the state itself and the
        network's time. Its gradient has to vanish where no signal is left, as that of a classifier
        of noisy data does: a velocity's shift divides by alpha. ``scale`` as for ``guided``.
        """
        check_order(log_prob, "log_prob", "log_prob(x, t)", STATE, TIME)
        return guidance.by_classifier(self, log_prob, scale, cond)

    @door("model.inpainted")
    def inpainted(self, known: Tensor, mask: Tensor) -> Model:
        """The model with x0 replaced by ``known`` (B, ...) where ``mask`` is 1, after each
        evaluation: for any solver.

        Both have one row a sample, or 1 for all; the mask holds numbers from 0 (free) to 1 (known)
        and may have 1 channel. A sample ends with what is known: exactly by solvers whose last step
        is the data prediction (DDIM, DPM++, UniPC, DDPM, ...), to the last step's error by others
        (Wang, Yu and Zhang 2023, DDNM, eq. 13)."""
        samples("known", known)
        if not isinstance(mask, Tensor):
            raise OdesolveError(
                f"mask is {short(mask)}: give a tensor of numbers from 0 (free) to 1 (known)"
            )
        if (
            known.dim() != mask.dim()
            or known.dim() < 2
            or known.is_complex()
            or not transforms.covers(mask, known)
        ):
            given = f"known {known.dtype} {tuple(known.shape)} and mask {tuple(mask.shape)}"
            raise OdesolveError(
                f"{given}: give both as (B, ...), or with 1 for all samples, real numbers"
            )
        if not bool(((mask >= 0) & (mask <= 1)).all()):
            raise OdesolveError(
                "the mask leaves [0, 1]: give 1 where the data are known, 0 where they are free"
            )
        out = copy.copy(self)
        out.functions = {**self.functions, "known": transforms.Known(known, mask)}
        out.reading = replace(
            self.reading, applies=(*(a for a in self.reading.applies if a != "known"), "known")
        )
        return out

    @fits_as("model.data")
    def data(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Data prediction E[x0 | x_t = x]; t is a number or shape (B,)."""
        return self._predict(x, t, "data")

    @fits_as("model.noise")
    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Noise prediction E[eps | x_t = x]."""
        return self._predict(x, t, "noise")

    @fits_as("model.score")
    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Score, the gradient of log p_t at x."""
        return self._predict(x, t, "score")

    @fits_as("model.velocity")
    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Velocity dx/dt of the probability-flow ODE in the path's time."""
        return self._predict(x, t, "velocity")

    @fits_as("model.v")
    def v(self, x: Tensor, t: float | Tensor) -> Tensor:
        """v-prediction alpha eps - sigma x0 (Salimans and Ho 2022)."""
        return self._predict(x, t, "v")

    @fits_as("model.edm")
    def edm(self, x: Tensor, t: float | Tensor, sigma_data: float | None = None) -> Tensor:
        """(sin(phi) x0 / sigma_data - cos(phi) eps) with tan(phi) = sigma / (alpha sigma_data):
        what EDM's network predicts.

        ``sigma_data`` is the model's by default, and must be where the network itself predicts
        "edm" (OdesolveError)."""
        mine = self.reading.sigma_data
        if self.predicts == "edm" and sigma_data not in (None, mine):
            raise OdesolveError(
                f"sigma_data={sigma_data}: the network predicts 'edm' for data of deviation {mine}"
            )
        return self._predict(x, t, "edm", sigma_data)

    @fits_as("model.network_times")
    def network_times(self, t: Tensor) -> Tensor:
        """What the network gets for the path times t (any shape)."""
        if callable(self.time):
            return told_times(shielded(self.time, "time", at=1)(self.path, t), t)
        if self.time == "index":
            steps = self.path.training_steps
            if steps is None:
                raise OdesolveError(
                    "time='index' needs a path with a table of training times: "
                    "use paths.Discrete(...)"
                )
            index = t * steps - 1
            # 29/100 * 100 is not quite 29, and networks look their embedding up by integer
            whole = index.round()
            return torch.where(
                (index - whole).abs() <= 4 * steps * torch.finfo(index.dtype).eps, whole, index
            )
        if self.time == "sigma":
            return self.path.rho(t)
        if self.time == "c_noise":
            return -0.25 * self.path.lam(t)
        return t * self.time_scale

    def times_for(self, times: Sequence[float | tuple[float, float]], x: Tensor) -> list[Tensor]:
        """One time argument of shape (B,) for each path time, on the device of x, in float32
        (float64 for float64 networks).

        Of pairs, for networks of two times, (B, 2).
        """
        t = self._times(tuple(times), self._time_dtype(x), x.device).unsqueeze(1)
        # a copy, for networks that change their t
        each = t.expand(-1, x.shape[0], *t.shape[2:]).clone()
        return list(each.unbind(0))

    def _time_dtype(self, x: Tensor) -> torch.dtype:
        """That of times for the network: its own, at least float32; half-precision networks embed
        their time in float32."""
        return torch.promote_types(self.dtype or x.dtype, torch.float32)

    def _times(
        self,
        times: tuple[float | tuple[float, float], ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor:
        """What the network gets for these times, kept for the next solve on the same grid."""
        # a user's function may say something else tomorrow
        if callable(self.time) or torch.compiler.is_compiling():
            t = self.network_times(torch.tensor(times, dtype=torch.float64)).to(dtype)
            return t.to(device, non_blocking=True)
        key = (times, dtype, device, self.time, self.time_scale)
        t = self._kept_times.get(key)
        if t is None:
            if len(self._kept_times) >= KEPT_TIMES:
                self._kept_times.clear()
            t = (
                self.network_times(torch.tensor(times, dtype=torch.float64))
                .to(dtype)
                .to(device, non_blocking=True)
            )
            self._kept_times[key] = t
        return t

    def reading_for(self, dtype: torch.dtype) -> Reading:
        """The reading for a state of this dtype."""
        return replace(self.reading, cast=self.dtype not in (None, dtype))

    def evaluate(
        self,
        x_in: Tensor,
        state: Tensor,
        t: Tensor,
        branches: Sequence[str],
    ) -> list[Tensor]:
        """Raw outputs, one a branch, to be read before the next call: of the network, and the
        classifier's gradient."""
        if branches == _PLAIN and not self.reading.variance:
            return [self._checked(self._ask(x_in, t, self.cond, True), state)]
        out: list[Tensor] = []
        guided = "uncond" in branches or "excess" in branches
        if guided and stackable(self.cond, self._uncond or {}, x_in.shape[0], self._shared):
            out = self._stacked(x_in, t)
        else:
            conds = {"cond": self.cond, "uncond": self._uncond or {}, "excess": self._uncond or {}}
            out = [self._network(x_in, t, conds[b], state) for b in branches if b in conds]
        variance = out[0].chunk(2, dim=1)[1] if self.reading.variance else None
        if variance is not None:
            out = [o.chunk(2, dim=1)[0] for o in out]
        if "excess" in branches:
            out[1] = (self._strength("guidance", state) - 1) * (
                out[0].to(state.dtype) - out[1].to(state.dtype)
            )
        if "classifier" in branches:
            assert self._classifier is not None
            self._judge = self._judge.of(self._classifier)
            slope = self._checked(gradient_of(self._judge, state, t, self._labels), state)
            out.append(
                self._strength("classifier", state) * slope
                if "classifier" in self._strengths
                else slope
            )
        if "variance" in branches:
            assert variance is not None
            out.append(variance)
        return out

    def _strength(self, name: str, state: Tensor) -> Tensor:
        """The scale of each sample, beside the state; it moves to the state's device once."""
        each = self._strengths[name]
        if each.device != state.device and not each.requires_grad:
            each = self._strengths[name] = each.to(state.device)
        return scales.column(each, state)

    def _network(self, x_in: Tensor, t: Tensor, cond: Cond, state: Tensor) -> Tensor:
        """What the network says, of the shape of the state, or with twice its channels where it
        learned a variance."""
        shape = state.shape
        if self.reading.variance:
            shape = torch.Size([*shape[:1], *(2 * c for c in shape[1:2]), *shape[2:]])
        return self._checked(self._ask(x_in, t, cond), state, shape)

    def _ask(self, x: Tensor, t: Tensor, cond: Cond, read: bool = False) -> Tensor:
        door = self._door = self._door.of(self.net)
        if not x.requires_grad and not watching():  # nothing is recorded, by anybody
            return door(x, t, named=cond, read=read) if cond else door.on(x, t, read)
        out = answer(door, x, t, named=cond, read=read) if cond else answer(door.on, x, t, read)
        refuse_inside("what the network returned", out, x)
        return out

    def _stacked(self, x: Tensor, t: Tensor) -> list[Tensor]:
        twice = torch.cat([x, x])
        return list(
            self._network(
                twice, torch.cat([t, t]), stacked(self.cond, self._uncond or {}), twice
            ).chunk(2)
        )

    def _checked(self, out: Tensor, x: Tensor, shape: torch.Size | None = None) -> Tensor:
        shape = x.shape if shape is None else shape
        try:
            if (
                type(out) is Tensor
                and out.dtype is x.dtype
                and out.layout is STRIDED
                and out.shape == shape
            ):
                return out  # the usual case, looked at once a call
        except RuntimeError:  # of nested tensors, which have no shape
            pass
        return checked(out, x, shape)

    def at(self, t: Tensor, want: str, like: Tensor) -> Coefficients:
        """What predictions of the kind ``want`` at times (n,) take from the times, for ``predict``
        on states like this one."""
        return coefficients(self, t, want, like, self.reading.sigma_data)

    def predict(self, x: Tensor, at: Coefficients) -> Tensor:
        """The prediction at states (n, ...) by what ``at`` made of their times: for many calls on
        the same times."""
        return predicted(self, x, at)

    def _predict(
        self,
        x: Tensor,
        t: float | Tensor,
        want: str,
        sigma_data: float | None = None,
    ) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point() or not x.dim():
            samples("x", x)  # which refuses it
        wide = torch.promote_types(x.dtype, torch.float32)
        if not isinstance(t, Tensor) or (
            t.is_cpu and not watching() and not torch.compiler.is_compiling()
        ):
            t = (
                t
                if isinstance(t, Tensor)
                else real("t", t, "a number, or a time for each sample, (B,)")
            )
            check_times(self.path, t, trial=True)
        given = torch.promote_types(t.dtype, wide) if isinstance(t, Tensor) else torch.float64
        t = torch.as_tensor(t, dtype=given, device=x.device)
        t = t.expand(x.shape[0]) if t.dim() == 0 else t
        if t.shape != (x.shape[0],):
            raise OdesolveError(
                f"t has shape {tuple(t.shape)} for a batch of {x.shape[0]}: give a number or "
                "shape (B,)"
            )
        sigma_data = self.reading.sigma_data if sigma_data is None else sigma_data
        return predicted(self, x, coefficients(self, t, want, x, sigma_data))

    def mixed(self, guided: bool) -> dict[str, float]:
        """The branches of an evaluation and their weights, inside the guidance's interval or
        outside."""
        branches = (
            self.reading.guidance.mixed() if self.reading.guidance and guided else {"cond": 1.0}
        )
        return {**branches, "classifier": 0.0} if self.reading.classifier else branches
