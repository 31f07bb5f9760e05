"""A diffusers scheduler that runs our plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from msgspec import Meta, Struct
from torch import Tensor

from odesolve.doors.annotations import meant
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError, unknown
from odesolve.files import Number, Text, shaped
from odesolve.integrations.diffusers.checks import refuse_strange, strange, warn_of_overridden
from odesolve.integrations.diffusers.config import SAVED, check_config
from odesolve.integrations.diffusers.conventions import (
    CONVENTIONS,
    Convention,
    convention,
    source_of,
    spacing_named,
)
from odesolve.integrations.diffusers.loops import StepOutput
from odesolve.integrations.diffusers.network import FLOOR, Trained, trained
from odesolve.integrations.diffusers.noising import Noising
from odesolve.integrations.diffusers.placement import LevelRequest, level_request, placed
from odesolve.integrations.diffusers.schedule import SolverChoice, TimeSchedule, schedule
from odesolve.integrations.diffusers.walk import STOOD, Generators, Walk
from odesolve.integrations.names import from_diffusers
from odesolve.names import levels as kinds
from odesolve.planning.labels import parse_grid, parse_label
from odesolve.solvers import REGISTRY

KEPT_SCHEDULES = 64
Steps = Annotated[int, Meta(ge=1, le=10**6)]
Levels = tuple[Number, ...] | None


class _State(Struct):
    """What ``OdesolveScheduler.state_dict`` holds besides the loop's position: the arguments that
    the loop began with."""

    asked: tuple[Steps, Levels, Levels, Number | None]
    device: Text


@fits
class OdesolveScheduler(Noising, SchedulerMixin, ConfigMixin):
    """Any solver of ours in the place of a diffusers scheduler, on that scheduler's config.

    Args:
        solver: a label of ``ode.solvers()``, such as "dpmpp_2m" or "ddim(eta=1)", or of another
            program, whose schedule is the grid then, such as "DPM++ 2M Karras"; None for the
            sampler that the config's own class is.
        grid: "karras", "exponential", "beta", "lu", "normal" (training times), or the label of a
            grid of ours, such as "vp_time(3,merged)"; None for what the config says.
        like: the diffusers class whose habits are followed in placing and rounding times; None for
            the class that a user of this solver would have taken.
        exact_timesteps: tell the network the times of the noise levels as they are, where diffusers
            rounds them.
        source: the class that the config was written for.
        config: every key of a diffusers scheduler's config.

    Latents of VP-like configs are alpha x0 + sigma eps, whatever the class was; of flows (1 - s) x0
    + s eps, of EDM x0 + sigma eps. Every thread has a loop of its own. Raises OdesolveError for
    what cannot be used."""

    order = 1  # replaced by the number of network calls per step where a solver takes more
    _compatibles: list[str] = []  # noqa: RUF012

    def __init__(
        self,
        solver: str | None = None,
        grid: str | None = None,
        like: str | None = None,
        exact_timesteps: bool = False,
        source: str | None = None,
        **config: Any,
    ):
        refuse_strange(config)
        body = {
            "num_train_timesteps": 1000,
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "beta_schedule": "linear",
        }
        config = {k: v for k, v in config.items() if not k.startswith("beta_") or v is not None}
        given = {**body, "prediction_type": "epsilon", "steps_offset": 0, **config}
        own = {
            "solver": solver,
            "grid": grid,
            "like": like,
            "exact_timesteps": exact_timesteps,
            "source": source,
        }
        self.register_to_config(**given, **own)
        if solver is None and source is None:
            raise OdesolveError(
                "which sampler? give solver= a label of ode.solvers(), or a config that names its "
                "class"
            )
        check_config(given | own)
        if grid is not None and grid != "normal" and grid not in kinds.KINDS:
            parse_grid(grid)  # which refuses what is none
        if like is not None and like not in CONVENTIONS:
            raise unknown("like", like, CONVENTIONS)
        if solver is not None:
            warn_of_overridden(given | own, solver)
        super().__init__()
        self._followed: OdesolveScheduler | None = None
        self._prepare()

    def _prepare(self) -> None:
        """Read the config."""
        c = self._read = self.config
        check_config(c)
        self._schedules: dict[tuple, TimeSchedule] = {}
        self._grid = (
            c["grid"]
            if c["grid"] is not None or c["solver"] is None
            else spacing_named(c["solver"])
        )
        self.trained: Trained = trained(c)
        name, options = self._choice(None)
        self._takes_eta = REGISTRY.find(name).outside.eta and "eta" not in options
        self.convention: Convention = convention(
            c["like"] or (c["source"] if c["solver"] is None else None),
            c["source"],
            name,
            self.trained.kind,
        )
        if self.convention.zero and c.get("rescale_betas_zero_snr"):
            self.trained = trained(c, FLOOR)
        self.order = REGISTRY.find(name).evaluations

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """The config in a folder, as diffusers reads it. Raises OdesolveError where there is none
        that can be read."""
        with replace(
            SAVED, name=f"the scheduler's config of {pretrained_model_name_or_path}"
        ).reading():
            return super().load_config(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_config(
        cls,
        config: Any = None,
        return_unused_kwargs: bool = False,
        **keys: Any,
    ) -> Any:
        """A scheduler on the config of another one (or on that scheduler), of any diffusers class;
        ``keys`` replace entries.

        Raises OdesolveError where the config's class has no equal here and ``solver`` does not name
        one."""
        source = None
        if isinstance(config, SchedulerMixin):
            source = type(config).__name__
            config = config.config  # type: ignore[attr-defined]
        if not isinstance(config, Mapping):
            raise OdesolveError(
                f"config is {type(config).__name__}: give pipe.scheduler or pipe.scheduler.config"
            )
        source = source or source_of(config)
        body = {k: v for k, v in config.items() if not k.startswith("_")}
        if source and source != cls.__name__:
            body["source"] = source
        refuse_strange(keys)
        out = cls.__new__(cls)
        out._on({**body, **keys})
        return (out, {}) if return_unused_kwargs else out

    def _on(self, config: Mapping[str, Any]) -> None:
        """Begin with a config that was saved or is another's, where entries that no scheduler reads
        are kept as they are."""
        unread = strange(config)
        self.__init__(**{k: v for k, v in config.items() if k not in unread})
        if unread:
            self.register_to_config(**unread)
            self._read = self.config

    @meant()
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Place the network's calls and begin a new loop in this thread.

        Args:
            num_inference_steps: number of steps, where neither ``timesteps`` nor ``sigmas`` says
                it.
            device: where ``timesteps`` will lie.
            timesteps: what the network is to be told, falling.
            sigmas: noise levels, falling (sigma/alpha; of flows from 0 to 1, before they are
                shifted); a last 0 may be there.
            mu: exponent of the dynamic shift of flows.

        Raises OdesolveError for numbers that contradict each other.
        """
        # pipelines write configs of their own into their schedulers
        if self.config is not self._read:
            self._prepare()
        what = level_request(num_inference_steps, timesteps, sigmas, mu)
        self._begin(self._scheduled(what), what.key(), device)

    def _scheduled(self, what: LevelRequest) -> TimeSchedule:
        """The schedule of a request, in a cache for the next one."""
        key = what.key()
        chosen = self._schedules.get(key)
        if chosen is None:
            config = {**self.config, "grid": self._grid}
            placement = placed(self.trained, self.convention, config, what)
            chosen = schedule(
                self.trained,
                self.convention,
                self._choice(what.n),
                placement,
                self.config["exact_timesteps"],
            )
            if len(self._schedules) >= KEPT_SCHEDULES:
                self._schedules.clear()
            self._schedules[key] = chosen
        return chosen

    def _begin(self, chosen: TimeSchedule, key: tuple, device: Any) -> None:
        self._enter(self._new_walk(chosen, key, device))

    def _new_walk(self, chosen: TimeSchedule, key: tuple, device: Any) -> Walk:
        """A walk through a schedule, before its first call."""
        whole = self.convention.rounds == "all" and bool(
            (chosen.times == chosen.times.round()).all()
        )
        times = torch.tensor(chosen.times, dtype=torch.int64 if whole else torch.float32).to(device)
        levels = 1.0 - chosen.levels if self.trained.inverted else chosen.levels
        walk = Walk(chosen, times, torch.tensor(levels, dtype=torch.float32), key)
        walk.generator = self.generator
        walk.follows = None if self._followed is None else self._followed._walk
        return walk

    def _choice(self, steps: int | None) -> SolverChoice:
        """The solver and its options for this many steps."""
        c = self.config
        if c["solver"] is None:
            named = from_diffusers(c["source"], c, steps)
            if named.reverse:
                raise OdesolveError(
                    f"{c['source']} goes from data to noise: use ode.invert on "
                    "ode.from_pipeline(pipe)"
                )
            name = named.solver
            options = dict(named.options)
        else:
            label = parse_label(c["solver"], steps)
            if label.reverse:
                raise OdesolveError(
                    f"solver {c['solver']!r} goes from data to noise: use ode.invert on "
                    "ode.from_pipeline(pipe)"
                )
            name = label.solver
            options = dict(label.options)
        outside = REGISTRY.find(name).outside
        options = {**outside.options, **options}
        # without solver= the config says by itself how its class ends
        tapers = outside.taper and c["solver"] is not None and c.get("lower_order_final", True)
        if tapers and steps is not None:
            options.setdefault("taper", steps < self.convention.taper)
        return SolverChoice(name, options)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The network's input for a sample: itself, but for networks in EDM's scaling."""
        if self.trained.scaled is None:
            return sample
        walk = self._going()
        level = float(walk.schedule.levels[walk.locate(timestep)])
        return sample * self.trained.input_scale(level)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        generator: Generators = None,
        return_dict: bool = True,
        variance_noise: Tensor | None = None,
        use_clipped_model_output: bool | None = None,
    ) -> StepOutput | tuple[Tensor]:
        """The sample after this network call.

        Args:
            model_output: the network's output, of the sample's shape, or with twice its channels (a
                learned variance).
            timestep: the entry of ``timesteps`` that the network got.
            sample: (B, ...), the sample that the network got, before ``scale_model_input``.
            eta: noise of DDIM; other solvers have their own options.
            generator: one generator, or one per sample: a sample's noise then depends on its own
                generator alone.
            return_dict: return a ``StepOutput`` and not a tuple of the sample alone.
            variance_noise: standard normal noise of this step, in place of our own.
            use_clipped_model_output: of DDIM: take the noise from the clipped x0 too, as every
                other solver does.

        The result has the dtype of ``sample``. Raises OdesolveError before ``set_timesteps`` and
        after the end."""
        if isinstance(sample, Tensor) and not sample.dim():
            raise OdesolveError("sample has no dimension: give floats (B, ...)")
        walk = self._walk() or self._going()
        index = walk.locate(timestep)
        clipped = bool(use_clipped_model_output)
        out = walk.step(
            model_output,
            index,
            sample,
            eta if self._takes_eta else 0.0,
            generator,
            variance_noise,
            clipped,
        )
        if return_dict:
            return StepOutput(out, walk, index, model_output, sample)
        return (out,)

    def set_shift(self, shift: float) -> None:
        """Change the shift of a flow's times, from the next ``set_timesteps`` on."""
        self.register_to_config(shift=float(shift))
        self._prepare()

    def follow(self, other: OdesolveScheduler | None) -> None:
        """Let loops of this scheduler that begin where a loop of ``other`` stopped take over its
        history; None ends that.

        So a refiner goes on after its base as if they were one network:
        ``refiner.scheduler.follow(base.scheduler)``. Both need the same config, solver and number
        of steps; where they differ, a loop begins without a history."""
        if other is not None and not isinstance(other, OdesolveScheduler):
            raise OdesolveError(f"other is {type(other).__name__}: give an OdesolveScheduler")
        self._followed = other

    def state_dict(self) -> dict[str, Any]:
        """This thread's loop as plain values and tensors: ``load_state_dict`` goes on from there,
        bitwise."""
        walk = self._going()
        return {"asked": walk.key, "device": str(walk.timesteps.device), **walk.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume a loop that ``state_dict`` saved from a scheduler of the same config.

        Raises OdesolveError for any other state, and leaves the present loop as it is.
        """
        entries = shaped(state, _State, STOOD)
        if self.config is not self._read:
            self._prepare()
        with STOOD.reading():
            what = level_request(*entries.asked)
            walk = self._new_walk(self._scheduled(what), what.key(), torch.device(entries.device))
            walk.load_state_dict({k: v for k, v in state.items() if k not in ("asked", "device")})
        self._enter(walk)

    def __getstate__(self) -> dict[str, Any]:
        state = None if self._walk() is None else self.state_dict()
        return {"config": dict(self.config), "state": state}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        config = saved["config"].items()
        self._on({name: value for name, value in config if not name.startswith("_")})
        if saved["state"] is not None:
            self.load_state_dict(saved["state"])
