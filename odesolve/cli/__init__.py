"""The command line: ``odesolve profile | check | sample | loglik | job | solvers | names | plan``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from odesolve.cli.arguments import parser
from odesolve.errors import Diverged, OdesolveError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 where a difference or a fault was found, 2 after an error (one line)."""
    given = parser().parse_args(argv)
    try:
        return given.run(given) or 0
    except (OdesolveError, Diverged, ImportError, OSError) as e:
        print(f"odesolve: error: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("odesolve: interrupted", file=sys.stderr)
        return 130
