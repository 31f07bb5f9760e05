"""Whether a folder holds the job of a call, and what differs, in the words that the call used."""

from __future__ import annotations

import re
from typing import Any

from odesolve.errors import OdesolveError, warn
from odesolve.fingerprints.fingerprint import KIND
from odesolve.jobs.densities import other_meaning

# entries of the manifest that are no reason to refuse a job by themselves
NOTES = ("made_with", "fingerprint", "portable", "parts")
TYPED = ("solver", "steps", "grid")  # the plan decides; these say in what it differs
MARKED = {
    "model": "the model differs",
    "conditions": "the function of ids differs",
    "data": "x holds other data",
}
SHOWN = 4  # differences in a message
CLASS = re.compile(r"\.class(\.\w+)?$")  # a part's class stands for the part


def check_same(root: Any, theirs: dict[str, Any], mine: dict[str, Any]) -> None:
    """Raise OdesolveError where a folder holds another job; warn where other versions made it."""
    _check_meaning(root, theirs, mine)
    versions = theirs.get("made_with", {})
    if theirs.get("fingerprint") != KIND:
        raise OdesolveError(
            f"{root} was begun by an earlier odesolve ({versions.get('odesolve')}), whose "
            "fingerprint saw less of a model, so that nothing says whether this is the same job: "
            f"load it with ode.jobs.Job({str(root)!r}), and give another folder to go on"
        )
    theirs = _same_by_other_python(theirs, mine)
    differences = [*_marked(theirs, mine), *_differences(theirs, mine)]
    if differences:
        raise OdesolveError(
            f"{root} holds another job ({'; '.join(differences[:SHOWN])}): give another folder, "
            "or the same arguments"
        )
    _warn_of_versions(root, versions, mine["made_with"])


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
    """Their facts with our fingerprints, where only the version of Python that compiled the code
    differs."""
    if _minor(theirs.get("made_with", {})) == _minor(mine["made_with"]):
        return theirs
    portable = theirs.get("portable", {})
    alike = {k for k, v in mine["portable"].items() if portable.get(k) == v}
    settings = {**theirs["settings"], **{k: mine["settings"][k] for k in alike}}
    return {**theirs, "settings": settings}


def _minor(versions: dict[str, Any]) -> list[str]:
    return str(versions.get("python")).split(".")[:2]


def _marked(theirs: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    """The fingerprints that differ, with the parts in which they do."""
    before = theirs["settings"]
    now = mine["settings"]
    other = [name for name in MARKED if before.get(name) != now.get(name)]
    parts = theirs.get("parts", {})
    return [MARKED[name] + _inside(parts, mine["parts"], name) for name in other]


def _inside(theirs: dict[str, str], mine: dict[str, str], name: str) -> str:
    """Such as " in net.act": the innermost known parts that differ."""
    inside = [k for k in {**theirs, **mine} if k.startswith(f"{name}.")]
    other = [k for k in inside if theirs.get(k) != mine.get(k)]
    innermost = [k for k in other if not any(o.startswith(f"{k}.") for o in other)]
    names = dict.fromkeys(CLASS.sub("", k).partition(".")[2] or "class" for k in innermost)
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
    if "noise" in other or "batch" in other:  # the length of a shard follows from them
        other = [k for k in other if k != "shard"]
    return [f"{k} is {before.get(k)} there and {now.get(k)} here" for k in other]


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names."""
    apart = (*NOTES, "settings", "arrays", "meaning", "statuses")
    flat = {k: v for k, v in facts.items() if k not in apart}
    flat |= {k: v for k, v in facts["settings"].items() if k not in MARKED}
    kept = facts["arrays"]
    if "samples" in kept:
        dtype, event = kept["samples"]
        flat |= {"dtype": dtype, "noise": [flat.pop("batch", None), *event]}
    return flat | {"what it keeps": sorted(kept)}


def _warn_of_versions(root: Any, theirs: dict[str, Any], mine: dict[str, Any]) -> None:
    other = [k for k in mine if k in theirs and _public(theirs[k]) != _public(mine[k])]
    if other:
        versions = ", ".join(f"{k} {theirs[k]} and goes on with {mine[k]}" for k in other)
        note = f"{root} was begun with {versions}: results made by the two may differ"
        if "python" in other:
            note += "; of code, only arguments, closures and globals were compared"
        warn(note)


def _public(version: Any) -> str:
    """A version without its build, such as +cu128."""
    return str(version).partition("+")[0]
