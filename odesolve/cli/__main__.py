"""``python -m odesolve.cli`` is ``odesolve``."""

import sys

from odesolve.cli import main

sys.exit(main())
