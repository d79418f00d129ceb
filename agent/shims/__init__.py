"""The asyncio side of the zygote and its shims: create, adopt, signal, exec, and every exit.

shims = Shims(state_directory)
await shims.start()
for adopted in await shims.adopt(): …      # what an earlier agent left running
created = await shims.create(uid, bundle)  # init held: attach the network to created.pid
await shims.run(uid)
async for exited in shims.exits(): …
"""

from agent.shims.attachment import Attachment
from agent.shims.errors import ShimError
from agent.shims.fleet import Adopted, Created, Exited, Shims, State
from agent.shims.session import ExecSession

__all__ = [
    "Adopted",
    "Attachment",
    "Created",
    "ExecSession",
    "Exited",
    "ShimError",
    "Shims",
    "State",
]
