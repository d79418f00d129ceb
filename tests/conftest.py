"""What holds for all tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.patience import PATIENCE


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What runs side by side with `-n 2 --dist loadfile`: files may, but those below tests/host
    count what is left on the host and use its names."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return "host" if nodeid.startswith("tests/host/") else str(super()._split_scope(nodeid))

    return Files(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Stretch the tests' own time limits."""
    if PATIENCE == 1:
        return
    for item in items:
        mark = item.get_closest_marker("timeout")
        limit_s = float(mark.args[0] if mark else config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(limit_s * PATIENCE), append=False)
