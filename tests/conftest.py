"""What holds for all tests."""

from __future__ import annotations

import pytest

from tests.patience import PATIENCE


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say what may run side by side (pytest -n 2 --dist loadgroup): files may, but those below
    tests/host count what is left on the host. Stretch the tests' own time limits."""
    for item in items:
        file = item.path.relative_to(config.rootpath).as_posix()
        group = "host" if file.startswith("tests/host/") else file
        item.add_marker(pytest.mark.xdist_group(group))
    if PATIENCE == 1:
        return
    for item in items:
        mark = item.get_closest_marker("timeout")
        limit_s = float(mark.args[0] if mark else config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(limit_s * PATIENCE), append=False)
