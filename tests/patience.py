"""How many times longer than on an ordinary machine tests wait (BAYPLAN_TEST_PATIENCE): an emulated
one is tens of times slower. It stretches deadlines only; no test measures anything by them."""

from __future__ import annotations

import os
from typing import Final

PATIENCE: Final = float(os.environ.get("BAYPLAN_TEST_PATIENCE", "1"))
