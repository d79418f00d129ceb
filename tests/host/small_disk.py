"""A small file system, to be filled to its last byte."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path


class SmallDisk:
    """A tmpfs of so many bytes at `mount`, which is made."""

    def __init__(self, mount: Path, size_bytes: int) -> None:
        self.mount = mount
        mount.mkdir(parents=True)
        options = f"size={size_bytes},mode=700"
        command = ["mount", "-t", "tmpfs", "-o", options, "bayplan-test", str(mount)]
        subprocess.run(command, check=True, timeout=10)

    def fill(self) -> None:
        """To the last byte."""
        with (self.mount / "ballast").open("ab", buffering=0) as file:
            for piece in (1 << 20, 1 << 16, 4096):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * piece):
                        pass

    def free(self) -> None:
        (self.mount / "ballast").unlink()

    def unmount(self) -> None:
        """At once, whoever has files there open; nothing where somebody did it before."""
        if self.mount.is_mount():
            subprocess.run(["umount", "-l", str(self.mount)], check=True, timeout=10)
