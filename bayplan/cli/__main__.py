"""`python -m bayplan.cli`."""

from __future__ import annotations

from bayplan.cli.main import main

main()
