"""What other programs call paths and the rules of times on them, and what to type for them here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from odesolve.errors import OdesolveError, folded, unknown

_TABLE = (
    ("vp vpsde variancepreserving scorevp", "VP()"),
    ("subvp subvpsde", "SubVP()"),
    ("ve vesde varianceexploding", "VE()"),
    ("edm karras karrasve", "EDM()"),
    ("linear flow flowmatching rectifiedflow ot condot icfm cfm interpolant sd3 flux", "Linear()"),
    ("cosine", "Cosine()"),
    ("trig gvp trigflow", "Trig()"),
    ("ddpm ddim", "Discrete.ddpm()"),
    ("sd stablediffusion scaledlinear sdxl ldm", "Discrete.stable_diffusion()"),
    ("discrete alphascumprod betas squaredcoscapv2", "Discrete(alphas_cumprod)"),
)
# Rules of times like ours, whose ends may lie elsewhere.
GRIDS = {
    **dict.fromkeys(("logsnr", "loglinear", "polyexponential"), "lambda"),
    **dict.fromkeys(("timeuniform", "linear"), "uniform"),
    **dict.fromkeys(("timequadratic", "quad"), "quadratic"),
    "edm": "karras",
}
WORDS = {word: typed for words, typed in _TABLE for word in words.split()}


def no_path(given: Any) -> OdesolveError:
    """The error for what is no path, with the path that it is likely to stand for."""
    shape = getattr(given, "shape", None)  # of a table
    name = given if isinstance(given, str) else getattr(given, "__name__", "")
    typed = WORDS.get("betas" if shape is not None else folded(str(name)))
    instead = (
        f"odesolve.paths.{typed}"
        if typed
        else ("one of odesolve.paths, such as odesolve.paths.VP()")
    )
    shown = repr(given) if shape is None else f"of shape {tuple(shape)}"
    return OdesolveError(f"path is {shown}: give {instead}")


def unknown_grid(name: str, known: Iterable[str]) -> OdesolveError:
    """The error for a name that no grid has."""
    near = GRIDS.get(folded(name))
    if near:
        return OdesolveError(f"unknown grid {name!r}: did you mean {near!r}?")
    return unknown("grid", name, known)
