"""A sampler prepared once and called often: planning, lowering and checks are done before the first
call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odesolve import run
from odesolve.doors.brief import brief
from odesolve.doors.keywords import door
from odesolve.doors.words import refuse_others
from odesolve.errors import OdesolveError
from odesolve.functions.graphs import refuse_lost
from odesolve.functions.steadiness import warn_of_training
from odesolve.functions.torch_func import watching
from odesolve.model.model import Model
from odesolve.noise.keys import Ids, fresh_seed, keys_of
from odesolve.planning.planner import GridLike, SolverLike
from odesolve.plans.plan import Plan
from odesolve.sampling.chunks import Chunks, size_of
from odesolve.sampling.execute import check_executor, execute, program_for
from odesolve.sampling.model_plan import check_start, chosen_plan
from odesolve.sampling.start import Noise, shape_of, start

CALL = frozenset({"noise", "seed", "ids", "state", "device"})


@brief
class Sampler:
    """``ode.sample`` with everything decided but the noise; ``sampler(noise, seed=0)`` gives the
    final state.

    Args:
        model, solver, steps, grid, plan, options: as for ``ode.sample``.
        dtype: of the state, float32 or float64.
        executor: as for ``ode.sample``; ``ode.Graph(model, like)`` replays the loop as a captured
            graph.
        batch: at most that many samples are solved at once.

    A call waits for nothing on the device and looks at no value: a solve that diverges returns what
    it returns. ``torch.compile(sampler, fullgraph=True)`` compiles the whole loop with the network.
    Scales that are functions of time were asked when this was made.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
        >>> model = problem.model(ode.paths.VP())
        >>> sampler = ode.Sampler(model, "unipc_2", steps=10)
        >>> x = sampler(torch.randn(4, 2), seed=0)
        >>> x.shape
        torch.Size([4, 2])
    """

    @door("ode.Sampler")
    def __init__(
        self,
        model: Model,
        solver: SolverLike | None = None,
        steps: int | None = None,
        grid: GridLike | None = None,
        *,
        plan: Plan | None = None,
        dtype: torch.dtype = torch.float32,
        executor: run.Executor | None = None,
        batch: int | None = None,
        **options: Any,
    ):
        if dtype not in (torch.float32, torch.float64):
            raise OdesolveError(
                f"dtype={dtype}: the state is kept in torch.float32 or "
                "torch.float64, give one of them"
            )
        self.plan = chosen_plan(model, plan, solver, steps, grid, options)
        check_executor(executor)
        warn_of_training(model.net)
        self.model = model
        self.dtype = dtype
        self.executor = executor
        self.batch = None if batch is None else size_of(batch)
        self.program = program_for(model, self.plan, dtype, executor)
        self.stochastic = self.program.stochastic
        assert self.program.table  # made now: a compiler need not trace how

    def _facts(self) -> dict[str, str]:
        return {"model": repr(self.model), "plan": repr(self.plan), "dtype": str(self.dtype)}

    def __call__(
        self,
        noise: Noise | None = None,
        *,
        seed: int | None = None,
        ids: Ids | None = None,
        state: Tensor | None = None,
        device: torch.device | str | None = None,
        **other: object,
    ) -> Tensor:
        """The final state from noise (a tensor or a shape) or from a state at the plan's first
        time."""
        if other:  # words of other programs; a decorator would cost every call
            refuse_others("a Sampler's call", CALL, other)
        if self.batch is None:
            return self._solved(self.model, noise, state, seed, ids, device)
        whole = state if state is not None else noise
        count = len(whole) if isinstance(whole, Tensor) else shape_of(whole)[0]
        chunks = Chunks(self.model, count, self.batch, ids)
        seed = fresh_seed() if seed is None else seed
        numbers = range(len(chunks.rows))
        parts = ((chunks.part(k), chunks.start(k, noise, state)) for k in numbers)
        return torch.cat(
            [self._solved(model, seed=seed, device=device, **own) for model, own in parts]
        )

    def _solved(
        self,
        model: Model,
        noise: Noise | None,
        state: Tensor | None,
        seed: int | None,
        ids: Ids | None,
        device: torch.device | str | None,
    ) -> Tensor:
        if not watching():  # what watches is refused in its own words
            refuse_lost("the start", (noise, state), None)
        check_start(self.plan, model, noise)
        x = start(
            model, noise, state, self.plan.grid[0], (seed, ids), self.dtype, device, check=False
        )
        keys = keys_of(x.shape[0], seed, ids, x.device) if self.stochastic else None
        return execute(model, self.program, x, keys, self.executor, own=state is None)
