"""`bay`, and `python -m bayplan.cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Interrupted while it is still being loaded, `bay` ends like any interrupted verb."""
    try:
        from bayplan.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
