"""An agent reduced to its shims, as a process that can be killed:
`agent_process.py STATE UID…` starts the bundles of the uids, prints their pids and waits.
`UID=SECONDS`: its shim is to end it after that."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from agent.shims import Shims


async def main(state: Path, uids: list[str]) -> None:
    """Never returns."""
    shims = Shims(state)
    await shims.start()
    for text in uids:
        uid, _, seconds = text.partition("=")
        created = await shims.create(uid, state / "tasks" / uid)
        if seconds:
            boottime_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            await shims.fence(uid, boottime_ns + int(float(seconds) * 1e9))
        await shims.run(uid)
        print(created.pid, flush=True)
    print(shims.zygote_pid, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
