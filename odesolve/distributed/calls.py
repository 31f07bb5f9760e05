"""``sample`` and ``log_prob`` on a mesh of ranks: samples by their ids, wherever they are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

from odesolve.distributed.ranks import agreed, cut, mine, together
from odesolve.distributed.ranks import mesh as all_ranks
from odesolve.distributed.spread import spread
from odesolve.errors import Diverged, OdesolveError
from odesolve.given import refuse_loose
from odesolve.keys import Ids, fresh_seed, ids_of, seed_of
from odesolve.keywords import door
from odesolve.likelihood.result import LogProb
from odesolve.log_prob import log_prob as solve_log_prob
from odesolve.meant import samples
from odesolve.models import Model
from odesolve.sample import Sample
from odesolve.sample import sample as draw_samples
from odesolve.start import Noise, shape_of

STATUSES = ("ok", "diverged")


class Part:
    """What one rank of a mesh has of a batch: the samples ``rows`` and the model for them."""

    def __init__(self, where: DeviceMesh | None, model: Any, batch: int, seed: int | None, ids: Ids | None):
        self.mesh = where if where is not None else all_ranks()
        if self.mesh.mesh_dim_names != ("data", "time"):
            raise OdesolveError(
                f"the mesh has {self.mesh.mesh_dim_names}: give one of ode.distributed.mesh(data, time)"
            )
        self.data, self.time = self.mesh["data"], self.mesh["time"]
        kind = self.mesh.device_type
        self.device = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
        self.sizes = cut(batch, self.data.size())
        self.rows = mine(batch, self.data.size(), self.data.get_local_rank())
        self.seed = agreed(fresh_seed() if seed is None else seed_of(seed), self.device)
        every = torch.arange(batch) if ids is None else ids_of(batch, ids)
        self.ids = every.cpu()[self.rows]
        self.model = model
        if isinstance(model, Model):
            self.model = bare(model).rows(self.rows, batch)
            if self.time.size() > 1:
                self.model = spread(self.model, self.time.get_group())

    @property
    def empty(self) -> bool:
        """Whether there is nothing for this rank."""
        return not len(self.rows)

    def whole(self, *parts: Tensor) -> list[Tensor]:
        """Every rank's rows, on every rank."""
        return together(parts, self.sizes, self.data.get_group())


def bare(model: Model) -> Model:
    """The model without DistributedDataParallel around its network, whose forward waits for the other ranks: solves that take
    different numbers of calls would hang."""
    if not isinstance(model.net, DistributedDataParallel):
        return model
    out = Model.__new__(type(model))
    out.__dict__.update(model.__dict__)
    out.net = model.net.module
    return out


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
    """``ode.sample`` of a batch over the ranks of a mesh: each draws its part of the samples, which seed and id decide.

    Args:
        model, noise, state, ids: those of the whole batch, the same on every rank; conditions with one value a sample are cut.
        mesh: of ``ode.distributed.mesh``, all ranks as "data" by default. Ranks along "time" share a part: they evaluate the
            network's rows together, which pays with ``executor=ode.Window()``.
        seed: by default the first rank's choice.
        gather: give every rank the whole batch, in order, instead of its own part.
        full: return a ``Sample``, of the part or the whole.
        options: as for ``ode.sample``, without ``log_prob`` and ``adjoint``.

    Where a solve diverges all ranks raise Diverged with ``gather``, the rank itself without. Raises OdesolveError as
    ``ode.sample`` does.
    """
    if options.get("log_prob") or options.get("adjoint"):
        raise OdesolveError(
            "log_prob and adjoint are not spread over ranks: call ode.distributed.log_prob on the samples"
        )
    given = state if state is not None else noise
    if given is None:
        raise OdesolveError("give either noise= (a tensor or a shape) or state= (a state at the grid's first time)")
    shape = tuple(given.shape) if isinstance(given, Tensor) else tuple(shape_of(given))
    if not shape:
        raise OdesolveError("noise or state has no dimension: give floats (B, ...)")
    if isinstance(given, Tensor):
        refuse_loose("noise" if state is None else "state", given)
    part = Part(mesh, model, shape[0], seed, ids)
    found = _drawn(part, shape, noise, state, args, options)
    if gather:
        code = torch.full((len(part.rows),), STATUSES.index(found.status), dtype=torch.int64, device=found.x.device)
        x, codes = part.whole(found.x, code)
        found = replace(found, x=x, status=STATUSES[int(codes.max())] if len(codes) else "ok")
    if full or found.status == "ok":
        return found if full else found.x
    raise Diverged(f"{found.plan.solver} left the finite numbers: see .state, .t", found.x, found.t, found.steps)


def _drawn(part: Part, shape: tuple[int, ...], noise: Any, state: Tensor | None, args: tuple, options: dict) -> Sample:
    start: dict[str, Any] = {"noise": (len(part.rows), *shape[1:])}
    if isinstance(noise, Tensor):
        start = {"noise": noise[part.rows.to(noise.device)]}
    elif state is not None:
        start = {"state": state[part.rows.to(state.device)]}
    named = dict(zip(("solver", "steps", "grid"), args, strict=False))
    found = draw_samples(part.model, **start, **named, seed=part.seed, ids=part.ids, full=True, **options)
    assert isinstance(found, Sample)
    return found


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
    """``ode.log_prob`` of a batch over the ranks of a mesh: each solves for its part, in as many steps as that takes.

    Arguments as for ``ode.log_prob`` and ``sample`` above; tensors in ``args`` with one value a sample are cut. No rank along
    "data" waits for another inside a solve; those along "time" share the network's rows and the divergences at nodes, which
    pays with ``solver="picard"``. Not differentiable.
    """
    if options.get("adjoint") is not None or options.get("of", "flow") != "flow":
        raise OdesolveError(
            'gradients and of="plan" are not spread over ranks: call ode.log_prob on every rank\'s own data'
        )
    samples("x", x)
    part = Part(mesh, model, len(x), seed, ids)
    along = options.get("divergence") == "along" or not isinstance(model, Model)
    if part.time.size() > 1 and (along or options.keys() & {"steps", "plan"}):
        raise OdesolveError(
            'ranks along "time" share the evaluations at nodes, of a model and without steps=, plan= and divergence="along": '
            "give mesh(time=1)"
        )
    rows, own, solved = part.rows, part.ids, part.model
    if part.empty:  # one sample that nobody gets, so that the answer has its form
        rows = own = torch.zeros(1, dtype=torch.int64)
        solved = bare(model).rows(rows, len(x)) if isinstance(model, Model) else model
    here = rows.to(x.device)
    cut_args = tuple(a[here] if isinstance(a, Tensor) and a.dim() and len(a) == len(x) else a for a in args)
    found = solve_log_prob(solved, x[here], seed=part.seed, ids=own, args=cut_args, **options)
    names = [n for n in FIELDS if getattr(found, n) is not None]
    values = [getattr(found, n)[: len(part.rows)] for n in names]
    status = found.status[: len(part.rows)]
    if gather:
        values = part.whole(*values)
        told: list[Any] = [None] * part.data.size()
        dist.all_gather_object(told, status, group=part.data.get_group())
        status = [word for words in told for word in words]
    return replace(found, **dict(zip(names, values, strict=True)), status=status)


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
