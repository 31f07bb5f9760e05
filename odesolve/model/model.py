"""A user's network and how to read it: prediction type, time and input scaling, guidance, and what
is done to x0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.annotations import samples
from odesolve.doors.brief import table
from odesolve.doors.convention import STATE, TIME, check_network, check_order
from odesolve.doors.keywords import door
from odesolve.doors.values import real
from odesolve.doors.words import fits_as
from odesolve.errors import OdesolveError, unknown
from odesolve.functions.torch_func import watching
from odesolve.lowering.lower import Reading
from odesolve.model import guidance, predictions, transforms
from odesolve.model.checks import check_arguments, check_known, check_times, missing, refuse_call
from odesolve.model.conditions import Cond
from odesolve.model.network import Network, Share
from odesolve.model.predictions import Coefficients, parameter_dtype
from odesolve.model.reading_text import default_time
from odesolve.model.settling import settle
from odesolve.model.text import facts_of_model, typed_model
from odesolve.paths import Path, no_path, prediction_named


def _of_network(name: str, doc: str) -> Any:
    """An attribute of a model that its network holds. Assigning it puts in another network, so that
    copies of the model keep theirs."""

    def get(model: Model) -> Any:
        return getattr(model.network, name)

    def put(model: Model, value: Any) -> None:
        model.network = model.network.replaced(**{name: value})

    return property(get, put, doc=doc)


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

    Besides its public attributes it holds the ``network``, which says how the network is called;
    the reading, which says what its answers mean, and the functions that are applied to x0.

    Example:
        >>> import odesolve as ode
        >>> net = lambda x, t: 0.5 * x  # yours
        >>> model = ode.Model(net, ode.paths.VP(), predicts="noise")
        >>> ode.sample(model, (16, 3, 8, 8), steps=10, seed=0).shape
        torch.Size([16, 3, 8, 8])
        >>> rising = ode.paths.Linear().flipped()  # data at t = 1
        >>> flow = ode.Model(net, rising, predicts="velocity")
    """

    net: Callable[..., Tensor] = _of_network("net", "The user's callable.")
    path: Path = _of_network("path", "The probability path of training.")
    cond: dict[str, Any] = _of_network("cond", "Keyword arguments of every call.")
    time: str | Callable[[Path, Tensor], Tensor] = _of_network(
        "time", "What the network gets as t."
    )
    time_scale: float = _of_network("time_scale", 'Factor on a time that is told as "t".')
    dtype: torch.dtype | None = _of_network(
        "dtype", "The dtype of the network's input, None for the state's."
    )

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
        self.network = Network(
            net,
            path,
            time if time is not None else default_time(path, predicts),
            time_scale,
            dtype if dtype is not None else parameter_dtype(net),
            cond or {},
            learned_variance,
        )
        self.snap = snap if snap is not None else path.training_steps is not None
        self.functions = transforms.data_transforms(clip, threshold)
        self.reading = Reading(
            predicts,
            sigma_data,
            input_scale or ("edm" if predicts == "edm" else None),
            applies=tuple(self.functions),
            variance=learned_variance,
            two_times=getattr(net, "two_times", False),  # see objectives.FlowMap
        )

    def __getattr__(self, name: str) -> Any:
        raise missing(name, getattr(self.__dict__.get("network"), "net", None))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: a model's answer is ``data(x, t)``, ``noise``, ``score``, ``velocity``, ``v`` or
        ``edm``."""
        refuse_call()

    def __repr__(self) -> str:
        return typed_model(self)

    def _repr_html_(self) -> str:
        return table("Model", facts_of_model(self))

    @property
    def predicts(self) -> str:
        """The network's prediction type."""
        return self.reading.prediction

    @property
    def branches(self) -> tuple[str, ...]:
        """Everything that one evaluation inside the guidance's interval asks of the network, in
        order."""
        return tuple(self.mixed(True))

    def replaced(self, **parts: Any) -> Model:
        """The model with other parts by name: ``network``, ``reading``, ``functions``."""
        # copy.copy, in words that torch.compile understands
        out = object.__new__(type(self))
        out.__dict__.update(self.__dict__, **parts)
        return out

    def with_network(self, network: Network) -> Model:
        """The model whose answers are those of this network: one that is counted, spread over ranks
        or otherwise wrapped."""
        return self.replaced(network=network)

    def with_net(self, net: Callable[..., Tensor]) -> Model:
        """The model that calls this instead of the user's network, in the same way."""
        return self.with_network(self.network.replaced(net=net))

    def given(self, **cond: Any) -> Model:
        """The model with these conditions instead of those of the same names."""
        return self.with_network(self.network.replaced(cond={**self.cond, **cond}))

    def untouched(self) -> Model:
        """The model without what is done to x0."""
        return self.replaced(reading=replace(self.reading, applies=()))

    def rows(self, index: Tensor, batch: int) -> Model:
        """The model for these samples (n,) of a batch: conditions with one value per sample are cut
        to theirs."""
        cut = {
            k: f.rows(index, batch) if isinstance(f, transforms.ROWS) else f
            for k, f in self.functions.items()
        }
        return self.replaced(network=self.network.rows(index, batch), functions=cut)

    def sharing(self, *rows: Tensor) -> AbstractContextManager[Share]:
        """For calls that hold a row for each of the rows: those that are evaluated here, all but
        where the network is spread over ranks."""
        return self.network.sharing(*rows)

    def settled(self) -> Model:
        """A copy whose conditions lie in memory of their own, for a captured graph that reads them
        where they are."""
        return self.with_network(self.network.settled())

    def settle(self, other: Model) -> str | None:
        """Copy the conditions of ``other`` into our memory; where it is another kind of model, why
        that cannot be done."""
        return settle(self, other)

    @property
    def own_tensors(self) -> list[Any]:
        """The tensors that it was given besides those of the network."""
        return [*self.network.own_tensors, *map(vars, self.functions.values())]

    @property
    def parts(self) -> dict[str, Any]:
        """All that decides what it answers, by name."""
        own = {name: value for name, value in vars(self).items() if name != "network"}
        return {**self.network.parts, **own}

    @property
    def evaluations_per_call(self) -> int:
        """Network evaluations that one evaluation of the guided model takes."""
        if self.reading.guidance and self.reading.guidance.scale != 1.0:
            return 2
        return 1

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

        ``scale`` is a number, one per sample (B,), or a function of the path's time: it gets one
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

        Both have one row per sample, or 1 for all; the mask holds numbers from 0 (free) to 1
        (known) and may have 1 channel. A sample ends with what is known: exactly by solvers whose
        last step is the data prediction (DDIM, DPM++, UniPC, DDPM, ...), to the last step's error
        by others (Wang, Yu and Zhang 2023, DDNM, eq. 13)."""
        check_known(known, mask)
        others = (a for a in self.reading.applies if a != "known")
        return self.replaced(
            functions={**self.functions, "known": transforms.Known(known, mask)},
            reading=replace(self.reading, applies=(*others, "known")),
        )

    @fits_as("model.data")
    def data(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Data prediction E[x0 | x_t = x]; t is a number or shape (B,)."""
        return self.prediction(x, t, "data")

    @fits_as("model.noise")
    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Noise prediction E[eps | x_t = x]."""
        return self.prediction(x, t, "noise")

    @fits_as("model.score")
    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Score, the gradient of log p_t at x."""
        return self.prediction(x, t, "score")

    @fits_as("model.velocity")
    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Velocity dx/dt of the probability-flow ODE in the path's time."""
        return self.prediction(x, t, "velocity")

    @fits_as("model.v")
    def v(self, x: Tensor, t: float | Tensor) -> Tensor:
        """v-prediction alpha eps - sigma x0 (Salimans and Ho 2022)."""
        return self.prediction(x, t, "v")

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
        return self.prediction(x, t, "edm", sigma_data)

    @fits_as("model.network_times")
    def network_times(self, t: Tensor) -> Tensor:
        """What the network gets for the path times t (any shape)."""
        return self.network.network_times(t)

    def times_for(self, times: Sequence[float | tuple[float, float]], x: Tensor) -> list[Tensor]:
        """One time argument of shape (B,) for each path time, on the device of x, in float32
        (float64 for float64 networks).

        Of pairs, for networks of two times, (B, 2).
        """
        return self.network.times_for(times, x)

    def reading_for(self, dtype: torch.dtype) -> Reading:
        """The reading for a state of this dtype."""
        return replace(self.reading, cast=self.dtype not in (None, dtype))

    @property
    def evaluate(self) -> Callable[[Tensor, Tensor, Tensor, Sequence[str]], list[Tensor]]:
        """Raw outputs for (x_in, state, t, branches), see ``Network.evaluate``: the network's own
        method, so that a loop which takes it once pays for no second call."""
        return self.network.evaluate

    def at(
        self,
        t: Tensor,
        want: str,
        like: Tensor,
        sigma_data: float | None = None,
    ) -> Coefficients:
        """What predictions of the kind ``want`` at times (n,) take from the times, for ``predict``
        on states like this one."""
        sigma_data = self.reading.sigma_data if sigma_data is None else sigma_data
        return predictions.coefficients(self, t, want, like, sigma_data)

    def predict(self, x: Tensor, at: Coefficients) -> Tensor:
        """The prediction at states (n, ...) by what ``at`` made of their times: for many calls on
        the same times."""
        return predictions.predicted(self, x, at)

    def answers(self, x: Tensor, at: Coefficients, *more: str) -> list[Tensor]:
        """What the network answers at states (n, ...), one tensor per branch: to be converted, also
        to several predictions. ``more`` are branches besides, such as "variance"."""
        return predictions.answers(self, x, at, (*self.mixed(at.any_guided), *more))

    def convert(self, x: Tensor, at: Coefficients, answers: Sequence[Tensor]) -> Tensor:
        """The prediction at states (n, ...) from answers that the network gave there: it is not
        called."""
        return predictions.converted(self.reading, self.functions, x, at, answers)

    def prediction(
        self,
        x: Tensor,
        t: float | Tensor,
        want: str,
        sigma_data: float | None = None,
    ) -> Tensor:
        """The prediction of the kind ``want``; the library's own calls take this door, which
        explains no calls that do not fit."""
        return self.predict(x, self.at(self.times_of(x, t), want, x, sigma_data))

    def times_of(self, x: Tensor, t: float | Tensor) -> Tensor:
        """A time for each of the states (B,), on their device. Raises OdesolveError for states and
        times that cannot be used."""
        if not isinstance(x, Tensor) or not x.is_floating_point() or not x.dim():
            samples("x", x)  # which refuses it
        if not isinstance(t, Tensor):
            t = real("t", t, "a number, or a time for each sample, (B,)")
            check_times(self.path, t, trial=True)
            given = torch.float64
        else:
            if t.is_cpu and not watching() and not torch.compiler.is_compiling():
                check_times(self.path, t, trial=True)
            wide = torch.promote_types(x.dtype, torch.float32)
            given = torch.promote_types(t.dtype, wide)
        t = torch.as_tensor(t, dtype=given, device=x.device)
        t = t.expand(x.shape[0]) if t.dim() == 0 else t
        if t.shape != (x.shape[0],):
            raise OdesolveError(
                f"t has shape {tuple(t.shape)} for a batch of {x.shape[0]}: give a number or "
                "shape (B,)"
            )
        return t

    def mixed(self, guided: bool) -> dict[str, float]:
        """The branches of an evaluation and their weights, inside the guidance's interval or
        outside."""
        return predictions.mixed(self.reading, guided)
