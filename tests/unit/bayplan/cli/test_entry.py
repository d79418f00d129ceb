"""What happens before a verb is known."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from bayplan.cli import __main__ as entry


def test_an_interrupt_while_loading_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the first tenths of a second ends with 130 and says nothing."""

    class Loading(ModuleType):
        @property
        def main(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "bayplan.cli.main", Loading("main"))
    with pytest.raises(SystemExit) as caught:
        entry.main()
    assert caught.value.code == 130
