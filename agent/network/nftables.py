"""libnftables by ctypes: one transaction a call (libnftables(3), libnftables-json(5))."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
from typing import Any

from agent.network.model import NetworkError

_OUTPUT_JSON = 1 << 4
_FALLBACK = "libnftables.so.1"


class Nftables:
    """Not for use from two threads at once. Made in the network namespace it shall speak to."""

    def __init__(self) -> None:
        try:
            lib = ctypes.CDLL(ctypes.util.find_library("nftables") or _FALLBACK)
        except OSError as error:
            raise NetworkError(
                f"libnftables cannot be loaded ({error})", hint="install libnftables1"
            ) from error
        lib.nft_ctx_new.restype = ctypes.c_void_p
        lib.nft_ctx_new.argtypes = [ctypes.c_uint32]
        lib.nft_ctx_free.argtypes = [ctypes.c_void_p]
        lib.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(lib, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(lib, name).argtypes = [ctypes.c_void_p]
            getattr(lib, name).restype = ctypes.c_char_p
        lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._lib = lib
        self._ctx = lib.nft_ctx_new(0)
        if not self._ctx:
            raise NetworkError("libnftables could not be started", hint="is this process root?")
        lib.nft_ctx_output_set_flags(self._ctx, _OUTPUT_JSON)
        lib.nft_ctx_buffer_output(self._ctx)
        lib.nft_ctx_buffer_error(self._ctx)

    def close(self) -> None:
        if self._ctx:
            self._lib.nft_ctx_free(self._ctx)
            self._ctx = None

    def run(self, commands: str) -> None:
        """All of `commands` (nft(8) syntax) or none of them. Raises NetworkError."""
        self._run(commands)

    def read(self, command: str) -> list[dict[str, Any]]:
        """The objects a `list` command answers with. Raises NetworkError where what is listed
        does not exist."""
        answer = self._run(command)
        if not answer:
            return []
        objects: list[dict[str, Any]] = json.loads(answer)["nftables"]
        return objects

    def _run(self, commands: str) -> str:
        status = self._lib.nft_run_cmd_from_buffer(self._ctx, commands.encode())
        output: bytes = self._lib.nft_ctx_get_output_buffer(self._ctx) or b""
        error: bytes = self._lib.nft_ctx_get_error_buffer(self._ctx) or b""
        if status != 0:
            said = error.decode(errors="replace").strip().split("\n")
            raise NetworkError(f"nftables refused: {' '.join(said[:2])}")
        return output.decode()
