"""``sample`` and ``log_prob`` on a mesh of ranks: samples by their ids, wherever they are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from odesolve.distributed.agreement import unlike
from odesolve.distributed.part import Ensemble, ranked, ranks_now
from odesolve.distributed.spread import Spread
from odesolve.distributed.wrappers import (
    FULLY_SHARDED,
    TENSOR_PARALLEL,
    bare,
    sharded,
    synchronised,
)
from odesolve.doors.annotations import samples
from odesolve.doors.keywords import door
from odesolve.doors.values import refuse_loose
from odesolve.errors import Diverged, OdesolveError
from odesolve.likelihood.result import LogProb
from odesolve.log_prob import log_prob as solve_log_prob
from odesolve.model.conditions import sizes as sizes_of
from odesolve.model.model import Model
from odesolve.noise.keys import Ids, fresh_seed, ids_of, seed_of
from odesolve.sample import Sample
from odesolve.sample import sample as draw_samples
from odesolve.sampling.start import Noise, shape_of

PLACES = ("solver", "steps", "grid")  # of arguments after noise
STATUSES = ("ok", "diverged")
COLLECTIVE = {
    FULLY_SHARDED: "give mesh(time=) all ranks, which then take the same steps",
    TENSOR_PARALLEL: "all of them have to see the same rows: call ode.{} itself on every rank, "
    "with one noise and seed",
}


def _check_net(ranks: Ensemble, model: Any, name: str) -> None:
    """Raise OdesolveError for a network that all ranks would have to call together, and do not."""
    kind = sharded(model)
    if kind == TENSOR_PARALLEL or (kind is not None and ranks.data.size() > 1):
        raise OdesolveError(
            f"the network's weights are {kind} over ranks: {COLLECTIVE[kind].format(name)}"
        )
    if synchronised(model):
        raise OdesolveError(
            "the network's SyncBatchNorm takes means over all ranks, which have other samples: "
            "call .eval() on the network"
        )


def _check_conditions(model: Any, batch: int, sizes: list[int]) -> None:
    """Raise OdesolveError for conditions with one value per sample of a rank's part, instead of the
    batch."""
    conditions = (model.cond, model.network.uncond or {}) if isinstance(model, Model) else ()
    for name, n in sizes_of(conditions):
        if n in sizes and n not in (1, batch):
            raise OdesolveError(
                f"the condition {name!r} has {n} rows for a batch of {batch}: give one row per "
                "sample of the whole batch, on every rank"
            )


def _part_of(ranks: Ensemble, model: Any, rows: Tensor, batch: int) -> Any:
    """The model for these samples of a batch, with its network's rows spread along "time"."""
    if not isinstance(model, Model):
        return model
    own = model.rows(rows, batch)
    if not ranks.lockstep:
        return own
    return own.with_network(Spread(own.network, ranks.groups[1], compared=True))


def _rows(ranks: Ensemble, batch: int) -> tuple[list[int], Tensor, Tensor]:
    """How many samples each rank has, this rank's, and those that it solves: where it has none, it
    solves one that is thrown away, so as to know what results look like."""
    sizes, rows = ranks.cut(batch)
    return sizes, rows, rows if len(rows) else torch.zeros(1, dtype=torch.int64)


@ranked("distributed.sample")
@door("distributed.sample")
def sample(
    model: Model,
    noise: Noise | None = None,
    *args: Any,
    mesh: DeviceMesh | None = None,
    state: Tensor | None = None,
    seed: int | None = None,
    ids: Ids | None = None,
    gather: bool = False,
    full: bool = False,
    **options: Any,
) -> Tensor | Sample:
    """``ode.sample`` of a batch over the ranks of a mesh: each rank draws its part of the samples,
    which seed and id decide.

    Args:
        model, noise, state, ids: those of the whole batch, the same on every rank; conditions with
            one value per sample are cut.
        mesh: from ``ode.distributed.mesh``; by default all ranks lie along "data". Ranks along
            "time" share a part: they evaluate the network's rows together, which pays with
            ``executor=ode.Window()``.
        seed: by default the first rank draws one.
        gather: give every rank the whole batch, in order, instead of its own part.
        full: return a ``Sample``, of the part or of the whole batch.
        options: as for ``ode.sample``, without ``log_prob`` and ``adjoint``.

    Where a solve diverges, all ranks raise Diverged with ``gather``, and only its own rank does
    without. Raises OdesolveError as ``ode.sample`` does.
    """
    ranks = ranks_now()
    named = dict(zip(PLACES, args, strict=False))
    arguments = {
        "model": model,
        "noise": noise,
        "state": state,
        "seed": seed,
        "ids": ids,
        "gather": gather,
    }
    compared = unlike(draw_samples, arguments | named | options)
    with bare(model):
        batch = _Batch(noise, state)
        seed = ranks.agree(lambda: batch.check(ranks, model, args, options, seed, ids), compared)
        drawn = ranks.solved(lambda: batch.solve(ranks, model, named | options, seed, ids), gather)
        if gather:
            drawn = _gathered(ranks, drawn, batch.size)
    ranks.call.alone = True
    if full:
        return drawn
    if drawn.status == "ok":
        return drawn.x
    raise Diverged(
        f"{drawn.plan.solver} left the finite numbers: see .state, .t",
        drawn.x,
        drawn.t,
        drawn.steps,
    )


def _gathered(ranks: Ensemble, part: Sample, batch: int) -> Sample:
    """The samples of all ranks, with the worst status of any."""
    code = STATUSES.index(part.status)
    samples = len(part.x)
    codes = torch.full((samples,), code, dtype=torch.int64, device=part.x.device)
    x, codes = ranks.whole([part.x, codes], ranks.cut(batch)[0])
    worst = int(codes.max()) if len(codes) else 0
    return replace(part, x=x, status=STATUSES[worst])


class _Batch:
    """The noise or the states of all samples, and how a rank solves its part of them."""

    def __init__(self, noise: Any, state: Any):
        self.noise = noise
        self.state = state
        self.shape: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return self.shape[0]

    def check(
        self,
        ranks: Ensemble,
        model: Any,
        args: tuple,
        options: dict,
        seed: int | None,
        ids: Ids | None,
    ) -> int:
        """The seed of this rank. Raises OdesolveError for arguments that cannot be used."""
        if len(args) > 3:
            raise OdesolveError(
                f"{len(args) + 2} arguments without a name: give those after grid by name"
            )
        if twice := [name for name in PLACES[: len(args)] if name in options]:
            raise OdesolveError(f"{', '.join(twice)} given by place and by name: give each once")
        if options.get("log_prob") or options.get("adjoint"):
            raise OdesolveError(
                "log_prob and adjoint are not spread over ranks: call ode.distributed.log_prob on "
                "the samples"
            )
        start = self.state if self.state is not None else self.noise
        if start is None:
            raise OdesolveError(
                "give either noise= (a tensor or a shape) or state= (a state at "
                "the grid's first time)"
            )
        self.shape = tuple(start.shape) if isinstance(start, Tensor) else tuple(shape_of(start))
        if not self.shape:
            raise OdesolveError("noise or state has no dimension: give floats (B, ...)")
        if isinstance(start, Tensor):
            refuse_loose("noise" if self.state is None else "state", start)
        return _checked(ranks, model, "sample", self.size, seed, ids)

    def solve(
        self,
        ranks: Ensemble,
        model: Any,
        options: dict,
        seed: int,
        ids: Ids | None,
    ) -> Sample:
        """The samples of this rank."""
        _, rows, solved = _rows(ranks, self.size)
        start: dict[str, Any] = {"noise": (len(solved), *self.shape[1:])}
        if isinstance(self.noise, Tensor):
            start = {"noise": self.noise[solved.to(self.noise.device)]}
        elif self.state is not None:
            start = {"state": self.state[solved.to(self.state.device)]}
        drawn = draw_samples(
            _part_of(ranks, model, solved, self.size),
            **start,
            **options,
            seed=seed,
            ids=_ids(self.size, ids)[solved],
            full=True,
        )
        assert isinstance(drawn, Sample)
        if len(rows):
            return drawn
        return replace(drawn, x=drawn.x[:0], status="ok")


def _checked(
    ranks: Ensemble,
    model: Any,
    name: str,
    batch: int,
    seed: int | None,
    ids: Ids | None,
) -> int:
    """The checks of every call; returns the seed of this rank."""
    _check_net(ranks, model, name)
    _check_conditions(model, batch, ranks.cut(batch)[0])
    if ids is not None:
        ids_of(batch, ids)
    return fresh_seed() if seed is None else seed_of(seed)


def _ids(batch: int, ids: Ids | None) -> Tensor:
    if ids is None:
        return torch.arange(batch)
    return ids_of(batch, ids).cpu()


@ranked("distributed.log_prob")
@door("distributed.log_prob", passes=solve_log_prob)
def log_prob(
    model: Model | Callable[..., Tensor],
    x: Tensor,
    *,
    mesh: DeviceMesh | None = None,
    seed: int | None = None,
    ids: Ids | None = None,
    gather: bool = False,
    args: tuple = (),
    **options: Any,
) -> LogProb:
    """``ode.log_prob`` of a batch over the ranks of a mesh: each rank solves for its part, in as
    many steps as that takes.

    Arguments as for ``ode.log_prob`` and for ``ode.distributed.sample``; tensors in ``args`` with
    one value per sample are cut. No rank along "data" waits for another inside a solve; those along
    "time" share the network's rows and the divergences at nodes, which pays with
    ``solver="picard"``. Not differentiable."""
    ranks = ranks_now()
    arguments = {"model": model, "x": x, "seed": seed, "ids": ids, "gather": gather, "args": args}
    with bare(model):
        check = partial(_check_densities, ranks, model, x, options, seed, ids)
        seed = ranks.agree(check, unlike(solve_log_prob, arguments | options))
        sizes, rows, solved = _rows(ranks, len(x))
        here = solved.to(x.device)
        solve = partial(
            solve_log_prob,
            _part_of(ranks, model, solved, len(x)),
            x[here],
            seed=seed,
            ids=_ids(len(x), ids)[solved],
            args=tuple(_cut(value, here, len(x)) for value in args),
            **options,
        )
        part = ranks.solved(solve, gather)
        names = [name for name in FIELDS if getattr(part, name) is not None]
        values = [getattr(part, name)[: len(rows)] for name in names]
        status = part.status[: len(rows)]
        if gather:
            values = ranks.whole(values, sizes)
            status = [word for words in ranks.of_all(status) for word in words]
    return replace(part, **dict(zip(names, values, strict=True)), status=status)


def _cut(value: Any, rows: Tensor, batch: int) -> Any:
    """These rows of a tensor with one row per sample of the batch; other values as they are."""
    per_sample = isinstance(value, Tensor) and value.dim() and len(value) == batch
    return value[rows] if per_sample else value


def _check_densities(
    ranks: Ensemble,
    model: Any,
    x: Any,
    options: dict,
    seed: int | None,
    ids: Ids | None,
) -> int:
    """The seed of this rank. Raises OdesolveError for arguments that cannot be used."""
    if options.get("adjoint") is not None or options.get("of", "flow") != "flow":
        raise OdesolveError(
            'gradients and of="plan" are not spread over ranks: call ode.log_prob on every '
            "rank's own data"
        )
    samples("x", x)
    along = options.get("divergence") == "along" or not isinstance(model, Model)
    if ranks.lockstep and (along or options.keys() & {"steps", "plan"}):
        raise OdesolveError(
            'ranks along "time" share the evaluations at nodes, of a model and without steps=, '
            'plan= and divergence="along": '
            "give mesh(time=1)"
        )
    return _checked(ranks, model, "log_prob", len(x), seed, ids)


FIELDS = (
    "value",
    "stderr",
    "solver_error",
    "latent",
    "nfe",
    "products",
    "prior_mismatch",
    "truncation",
    "truncation_error",
)
