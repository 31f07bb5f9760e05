"""How much memory a run takes."""

from __future__ import annotations

import gc

from torch.profiler import ProfilerActivity, profile


def peak(run):
    """The most bytes that torch's allocator holds at once for what ``run`` made."""
    gc.collect()  # what earlier runs left would be freed within this one, and count against it
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for e in sorted(events, key=lambda e: e.start_ns()):
        held += e.nbytes()
        most = max(most, held)
    return most
