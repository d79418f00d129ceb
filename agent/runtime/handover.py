"""An Init as bytes, for a process that is to be its parent and did not make it.

Descriptors do not travel in bytes: the control socket and stdio are put in again by the receiver.
The two processes run the same code, both forked from one that had loaded it.
"""

from __future__ import annotations

import io
import pickle
import socket
from dataclasses import replace

from agent.runtime.init import Init
from agent.runtime.stdio import Stdio

_CONTROL = "control"


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> str | None:
        return _CONTROL if isinstance(value, socket.socket) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, control: socket.socket) -> None:
        super().__init__(io.BytesIO(data))
        self._control = control

    def persistent_load(self, name: object) -> socket.socket:
        return self._control


def pack(init: Init) -> bytes:
    """Everything but descriptors, and but the filter's source, which init has compiled."""
    bundle = init.bundle
    linux = replace(bundle.config.linux, seccomp=None)
    bundle = replace(bundle, config=replace(bundle.config, linux=linux))
    out = io.BytesIO()
    _Pickler(out, pickle.HIGHEST_PROTOCOL).dump(replace(init, bundle=bundle, stdio=Stdio()))
    return out.getvalue()


def unpack(data: bytes, control: socket.socket, stdio: Stdio) -> Init:
    """The Init with the descriptors it has here."""
    init = _Unpickler(data, control).load()
    if not isinstance(init, Init):
        raise TypeError(f"not an Init but {type(init).__name__}")
    init.stdio = stdio
    return init
