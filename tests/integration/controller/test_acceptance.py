"""Who is refused learns why, however the refusal and what they were sending cross."""

from __future__ import annotations

import pytest

from bayplan.model.errors import PermissionDenied
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire._pb.bayplan.v1 import types_pb2
from tests.integration.controller.running import Running
from tests.integration.controller.test_operators import a_user


async def test_a_refused_exec_says_why_each_time(running: Running) -> None:
    """A hundred times, with input on its way from the first moment."""
    plain = await a_user(running, "otto", types_pb2.ROLE_OPERATOR)

    async def inputs() -> object:
        yield dispatcher.ExecInput(start=dispatcher.ExecStart(task="none.1.1", command=["true"]))
        while True:
            yield dispatcher.ExecInput(stdin=b"x" * 4096)

    async with running.client(plain) as client:
        for _ in range(100):
            with pytest.raises(PermissionDenied, match="needs the grant exec"):
                async for _ in client.exec(inputs()):  # type: ignore[arg-type]
                    pass
