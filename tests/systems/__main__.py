"""``make systems``: every system, its check, the figure, pass or fail."""

from __future__ import annotations

import sys

from tests.systems import rows
from tests.systems.table import SYSTEMS


def main() -> int:
    """Print the table; 1 if a row fails."""
    failed = 0
    print(f"{'':>3} {'system':38} {'figure':>9} {'limit':>9}       check")
    for s in sorted(rows.entered(SYSTEMS), key=lambda s: s.number):
        figure = s.figure()
        ok = figure <= s.limit
        failed += not ok
        print(
            f"{s.number:3} {s.name:38} {figure:9.2g} {s.limit:9.2g} {'pass' if ok else 'FAIL'}  "
            f"{s.check}",
            flush=True,
        )
    print(f"{len(SYSTEMS) - failed} of {len(SYSTEMS)} pass")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
