"""Whether a folder's job is the one that is asked for, and what differs, in the words of whoever
asks."""

from __future__ import annotations

import re
from typing import Any

from odesolve.errors import OdesolveError, warn
from odesolve.fingerprints.fingerprint import KIND
from odesolve.jobs.densities import other_meaning

# of the manifest: no reason to refuse by themselves
NOTES = ("made_with", "fingerprint", "portable", "parts")
TYPED = ("solver", "steps", "grid")  # what a plan was made of: it decides, these say what differs
MARKED = {
    "model": "the model differs",
    "conditions": "the function of ids differs",
    "data": "x holds other data",
}
TOLD = 4
CLASS = re.compile(r"\.class(\.\w+)?$")  # of a part: the part itself


def check_same(root: Any, theirs: dict[str, Any], mine: dict[str, Any]) -> None:
    """Raise OdesolveError where a folder holds another job; warn where other versions made it."""
    _check_meaning(root, theirs, mine)
    made = theirs.get("made_with", {})
    if theirs.get("fingerprint") != KIND:
        raise OdesolveError(
            f"{root} was begun by an earlier odesolve ({made.get('odesolve')}), whose fingerprint "
            "saw less of a model, so that "
            f"nothing says whether this is the same: load it with ode.jobs.Job({str(root)!r}), "
            "and give another folder to go on"
        )
    theirs = _same_by_other_python(theirs, mine)
    told = [*_marked(theirs, mine), *_differences(theirs, mine)]
    if told:
        raise OdesolveError(
            f"{root} holds another job ({'; '.join(told[:TOLD])}): give another folder, or the "
            "same arguments"
        )
    _warn_of_versions(root, made, mine["made_with"])


def _check_meaning(root: Any, theirs: dict[str, Any], mine: dict[str, Any]) -> None:
    if (
        "meaning" in mine
        and theirs.get("kind") == mine["kind"]
        and theirs.get("meaning") != mine["meaning"]
    ):
        version = theirs.get("made_with", {}).get("odesolve")
        raise other_meaning(
            root, theirs.get("meaning"), version, mine["meaning"], "give another folder"
        )


def _same_by_other_python(theirs: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    """With our fingerprints where another version of Python compiled the code, and all else
    agrees."""
    if _minor(theirs.get("made_with", {})) == _minor(mine["made_with"]):
        return theirs
    alike = {k for k, v in mine["portable"].items() if theirs.get("portable", {}).get(k) == v}
    return {**theirs, "settings": {**theirs["settings"], **{k: mine["settings"][k] for k in alike}}}


def _minor(made: dict[str, Any]) -> list[str]:
    return str(made.get("python")).split(".")[:2]


def _marked(theirs: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    """Fingerprints that differ, with the parts that do."""
    before = theirs["settings"]
    now = mine["settings"]
    other = [name for name in MARKED if before.get(name) != now.get(name)]
    return [MARKED[name] + _inside(theirs.get("parts", {}), mine["parts"], name) for name in other]


def _inside(theirs: dict[str, str], mine: dict[str, str], name: str) -> str:
    """ " in net.act", the innermost parts of what differs that are known."""
    other = [
        k for k in {**theirs, **mine} if theirs.get(k) != mine.get(k) and k.startswith(f"{name}.")
    ]
    inner = [k for k in other if not any(o.startswith(f"{k}.") for o in other)]
    names = dict.fromkeys(CLASS.sub("", k).partition(".")[2] or "class" for k in inner)
    return f" in {', '.join(list(names)[:3])}" if names else ""


def _differences(theirs: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    before = _flat(theirs)
    now = _flat(mine)
    other = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    if "plan" in now:
        typed = [k for k in TYPED if k in other]
        marked = theirs["settings"].get("model") != mine["settings"]["model"]
        same = "plan" not in other
        other = [k for k in other if k not in TYPED and (k != "plan" or not (typed or marked))]
        other = other if same else [*other, *typed]
    if "noise" in other or "batch" in other:  # by which a shard's length goes
        other = [k for k in other if k != "shard"]
    return [f"{k} is {before.get(k)} there and {now.get(k)} here" for k in other]


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """What was typed by its names."""
    flat = {
        k: v
        for k, v in facts.items()
        if k not in (*NOTES, "settings", "arrays", "meaning", "statuses")
    }
    flat |= {k: v for k, v in facts["settings"].items() if k not in MARKED}
    kept = facts["arrays"]
    if "samples" in kept:
        dtype, event = kept["samples"]
        flat |= {"dtype": dtype, "noise": [flat.pop("batch", None), *event]}
    return flat | {"what it keeps": sorted(kept)}


def _warn_of_versions(root: Any, theirs: dict[str, Any], mine: dict[str, Any]) -> None:
    other = [k for k in mine if k in theirs and _public(theirs[k]) != _public(mine[k])]
    if other:
        told = ", ".join(f"{k} {theirs[k]} and goes on with {mine[k]}" for k in other)
        code = (
            "; of code, only arguments, closures and globals were compared"
            if "python" in other
            else ""
        )
        warn(f"{root} was begun with {told}: results made by the two may differ{code}")


def _public(version: Any) -> str:
    """A version without the build, such as +cu128."""
    return str(version).partition("+")[0]
