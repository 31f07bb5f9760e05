"""``python -m odesolve`` is ``odesolve``."""

import sys

from odesolve.cli import main

sys.exit(main())
