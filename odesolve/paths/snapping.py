"""Times of a grid on the training times of a discrete path."""

from __future__ import annotations

from odesolve.errors import OdesolveError
from odesolve.paths import Path


def snapped(path: Path, times: list[float]) -> list[float]:
    """Times moved to the nearest training times, duplicates pushed apart; the data end stays where
    it is."""
    total = path.training_steps
    assert total is not None
    flip = path.t_noise < path.t_data
    index = [round(((path.t_max - t) if flip else t) * total) for t in times]
    falling = index[0] >= index[-1]
    index = index if falling else index[::-1]
    ends_at_data = times[-1 if falling else 0] == path.t_data
    n = len(index)
    if n - ends_at_data > total:
        raise OdesolveError(
            f"{n - 1} steps on a table of {total} training times: give fewer steps, or "
            "Model(snap=False)"
        )
    floor = 0 if ends_at_data else 1
    for k in range(n):
        index[k] = min(index[k], total if k == 0 else index[k - 1] - 1)
    for k in range(n - 1, -1, -1):
        lowest = floor if k == n - 1 else index[k + 1] + 1
        index[k] = floor if (k == n - 1 and ends_at_data) else max(index[k], lowest)
    out = [k / total for k in (index if falling else index[::-1])]
    if flip:
        return [path.t_max - t for t in out]
    return out
