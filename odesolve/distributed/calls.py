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
from odesolve.distributed.part import Together, ranked, ranks_now
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


def _check_net(ranks: Together, model: Any, name: str) -> None:
    """Raise OdesolveError for a network that all ranks have to call together where they would
    not."""
    kind = sharded(model)
    if kind == TENSOR_PARALLEL or (kind is not None and ranks.data.size() > 1):
        raise OdesolveError(
            f"the network's weights are {kind} over ranks: {COLLECTIVE[kind].format(name)}"
        )
    if synchronised(model):
        raise OdesolveError(
            "the network's SyncBatchNorm takes means over all ranks, whose samples are others: "
            "call .eval() on the network"
        )


def _check_conditions(model: Any, batch: int, sizes: list[int]) -> None:
    """Raise OdesolveError for conditions that have one value for each sample of a part, not of the
    batch."""
    held = (model.cond, model.network.uncond or {}) if isinstance(model, Model) else ()
    for name, n in sizes_of(held):
        if n in sizes and n not in (1, batch):
            raise OdesolveError(
                f"the condition {name!r} has {n} rows for a batch of {batch}: give one a sample "
                "of the whole batch, on every rank"
            )


def _part_of(ranks: Together, model: Any, rows: Tensor, batch: int) -> Any:
    """The model for these samples of a batch, its network's rows spread over "time"."""
    if not isinstance(model, Model):
        return model
    own = model.rows(rows, batch)
    if not ranks.lockstep:
        return own
    return own.with_network(Spread(own.network, ranks.groups[1], compared=True))


def _rows(ranks: Together, batch: int) -> tuple[list[int], Tensor, Tensor]:
    """How many samples each rank has, this rank's, and those that it solves: one that nobody gets
    where it has none."""
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
    """``ode.sample`` of a batch over the ranks of a mesh: each draws its part of the samples, which
    seed and id decide.

    Args:
        model, noise, state, ids: those of the whole batch, the same on every rank; conditions with
            one value a sample are cut.
        mesh: of ``ode.distributed.mesh``, all ranks as "data" by default. Ranks along "time" share
            a part: they evaluate the network's rows together, which pays with
            ``executor=ode.Window()``.
        seed: by default the first rank's choice.
        gather: give every rank the whole batch, in order, instead of its own part.
        full: return a ``Sample``, of the part or the whole.
        options: as for ``ode.sample``, without ``log_prob`` and ``adjoint``.

    Where a solve diverges all ranks raise Diverged with ``gather``, the rank itself without. Raises
    OdesolveError as ``ode.sample`` does.
    """
    ranks = ranks_now()
    named = dict(zip(PLACES, args, strict=False))
    given = {
        "model": model,
        "noise": noise,
        "state": state,
        "seed": seed,
        "ids": ids,
        "gather": gather,
    }
    asked = unlike(draw_samples, given | named | options)
    with bare(model):
        batch = _Batch(noise, state)
        seed = ranks.agree(lambda: batch.check(ranks, model, args, options, seed, ids), asked)
        found = ranks.solved(lambda: batch.solve(ranks, model, named | options, seed, ids), gather)
        if gather:
            code = torch.full(
                (len(found.x),),
                STATUSES.index(found.status),
                dtype=torch.int64,
                device=found.x.device,
            )
            x, codes = ranks.whole([found.x, code], ranks.cut(batch.size)[0])
            found = replace(found, x=x, status=STATUSES[int(codes.max())] if len(codes) else "ok")
    ranks.call.alone = True
    if full or found.status == "ok":
        return found if full else found.x
    raise Diverged(
        f"{found.plan.solver} left the finite numbers: see .state, .t",
        found.x,
        found.t,
        found.steps,
    )


class _Batch:
    """The start of all samples, and a rank's part of their solve."""

    def __init__(self, noise: Any, state: Any):
        self.noise = noise
        self.state = state
        self.shape: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return self.shape[0]

    def check(
        self,
        ranks: Together,
        model: Any,
        args: tuple,
        options: dict,
        seed: int | None,
        ids: Ids | None,
    ) -> int:
        """The seed of this rank. Raises OdesolveError for what cannot be solved."""
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
        given = self.state if self.state is not None else self.noise
        if given is None:
            raise OdesolveError(
                "give either noise= (a tensor or a shape) or state= (a state at "
                "the grid's first time)"
            )
        self.shape = tuple(given.shape) if isinstance(given, Tensor) else tuple(shape_of(given))
        if not self.shape:
            raise OdesolveError("noise or state has no dimension: give floats (B, ...)")
        if isinstance(given, Tensor):
            refuse_loose("noise" if self.state is None else "state", given)
        return _checked(ranks, model, "sample", self.size, seed, ids)

    def solve(
        self,
        ranks: Together,
        model: Any,
        options: dict,
        seed: int,
        ids: Ids | None,
    ) -> Sample:
        """The samples of this rank."""
        _, rows, asked = _rows(ranks, self.size)
        start: dict[str, Any] = {"noise": (len(asked), *self.shape[1:])}
        if isinstance(self.noise, Tensor):
            start = {"noise": self.noise[asked.to(self.noise.device)]}
        elif self.state is not None:
            start = {"state": self.state[asked.to(self.state.device)]}
        own = _ids(self.size, ids)[asked]
        found = draw_samples(
            _part_of(ranks, model, asked, self.size),
            **start,
            **options,
            seed=seed,
            ids=own,
            full=True,
        )
        assert isinstance(found, Sample)
        return found if len(rows) else replace(found, x=found.x[:0], status="ok")


def _checked(
    ranks: Together,
    model: Any,
    name: str,
    batch: int,
    seed: int | None,
    ids: Ids | None,
) -> int:
    """What holds of every call; the seed of this rank."""
    _check_net(ranks, model, name)
    _check_conditions(model, batch, ranks.cut(batch)[0])
    if ids is not None:
        ids_of(batch, ids)
    return fresh_seed() if seed is None else seed_of(seed)


def _ids(batch: int, ids: Ids | None) -> Tensor:
    return torch.arange(batch) if ids is None else ids_of(batch, ids).cpu()


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
    """``ode.log_prob`` of a batch over the ranks of a mesh: each solves for its part, in as many
    steps as that takes.

    Arguments as for ``ode.log_prob`` and ``sample`` above; tensors in ``args`` with one value a
    sample are cut. No rank along "data" waits for another inside a solve; those along "time" share
    the network's rows and the divergences at nodes, which pays with ``solver="picard"``. Not
    differentiable."""
    ranks = ranks_now()
    given = {"model": model, "x": x, "seed": seed, "ids": ids, "gather": gather, "args": args}
    with bare(model):
        check = partial(_check_densities, ranks, model, x, options, seed, ids)
        seed = ranks.agree(check, unlike(solve_log_prob, given | options))
        sizes, rows, asked = _rows(ranks, len(x))
        here = asked.to(x.device)
        cut_args = tuple(
            a[here] if isinstance(a, Tensor) and a.dim() and len(a) == len(x) else a for a in args
        )
        solved = _part_of(ranks, model, asked, len(x))
        own = _ids(len(x), ids)[asked]
        solve = partial(
            solve_log_prob, solved, x[here], seed=seed, ids=own, args=cut_args, **options
        )
        found = ranks.solved(solve, gather)
        names = [n for n in FIELDS if getattr(found, n) is not None]
        values = [getattr(found, n)[: len(rows)] for n in names]
        status = found.status[: len(rows)]
        if gather:
            values = ranks.whole(values, sizes)
            status = [word for words in ranks.told(status) for word in words]
    return replace(found, **dict(zip(names, values, strict=True)), status=status)


def _check_densities(
    ranks: Together,
    model: Any,
    x: Any,
    options: dict,
    seed: int | None,
    ids: Ids | None,
) -> int:
    """The seed of this rank. Raises OdesolveError for what cannot be solved."""
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
