"""Our samplers as a diffusers scheduler, and a model from a pipeline.

pipe.scheduler = OdesolveScheduler.from_config(pipe.scheduler.config, solver="dpmpp_2m",
grid="karras")"""

from odesolve.integrations.missing import needed

needed("diffusers", "diffusers")

from odesolve.integrations.diffusers.pipeline import from_pipeline, load_pipeline  # noqa: E402
from odesolve.integrations.diffusers.scheduler import OdesolveScheduler, StepOutput  # noqa: E402

__all__ = ["OdesolveScheduler", "StepOutput", "from_pipeline", "load_pipeline"]
