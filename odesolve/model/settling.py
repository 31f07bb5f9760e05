"""The conditions of one model copied into the memory of another, for a captured graph that reads
them where they are."""

from __future__ import annotations

from typing import Any

from odesolve.lowering.scales import same_sizes
from odesolve.model.conditions import copy_into, same_kind


def settle(mine: Any, theirs: Any) -> str | None:
    """Copy the conditions of a model into another's memory; where it is another kind of model, why
    that cannot be done."""
    if (
        theirs.net is not mine.net
        or theirs.branches != mine.branches
        or theirs.functions != mine.functions
    ):
        return (
            "the graph was captured for another network, other branches of guidance, or "
            "something else done to x0"
        )
    ours, others = mine.network, theirs.network
    pairs = list(zip(ours.conditions, others.conditions, strict=True))[:2]
    if not all(same_kind(one, other) for one, other in pairs):
        return "the conditions differ in more than their values from those that were captured"
    if not same_sizes(ours.strengths, others.strengths):
        return "the scales of guidance are of another number of samples than was captured"
    copy_into([*pairs, (ours.strengths, others.strengths)])
    return None
