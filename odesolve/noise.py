"""Which streams of random numbers a solve draws from. A stream is a number of 64 bits under a sample's (seed, id).

The top byte of a stream says what it is for, so that what one part draws never meets what another does.
"""

from __future__ import annotations

from typing import Final

_SHIFT: Final = 56
STEPS: Final = 0 << _SHIFT  # + number of the interval: noise that a plan adds
START: Final = 1 << _SHIFT  # the noise that a solve starts from
