"""The image of the examples: a small web server made of busybox, and the try-out built on it."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from bayplan import contexts
from bayplan.https import client_context
from bayplan.model.errors import Unavailable
from bayplan.oci.importing import Imported, RunDefaults, import_everywhere
from bayplan.oci.reference import parse
from bayplan.oci.registry import Endpoint
from bayplan.pki import SERVER_NAME
from lab.machine import CHECKOUT

BUSYBOX = Path("/bin/busybox")
IMAGE = "web:1"
PORT = 8080
IMPORT_LIMIT_S = 30.0
ANSWER_LIMIT_S = 3.0
APPLETS = (
    "cat", "cp", "date", "echo", "env", "false", "grep", "hostname", "httpd", "id", "kill", "ls",
    "mkdir", "mount", "nc", "nslookup", "ps", "rm", "sh", "sleep", "touch", "true", "wget", "yes",
)  # fmt: skip

# The first process of a pid namespace gets no signal it has no trap for (pid_namespaces(7)), so
# that the web server itself could not be asked to stop.
SERVE = """\
#!/bin/sh
trap 'kill $server; exit 0' TERM INT
mkdir -p /www
echo "${GREETING:-hello} from $(hostname)" >/www/index.html
echo ok >/www/healthz
echo "serving on port 8080"
httpd -f -p 8080 -h /www &
server=$!
wait $server
"""


def rootfs() -> io.BytesIO:
    """The archive; the same bytes each time. Raises Unavailable without a static busybox."""
    if not BUSYBOX.exists():
        raise Unavailable(f"{BUSYBOX} is missing", hint="apt-get install busybox-static")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for folder in ("bin", "www", "tmp", "etc"):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(member)
        files = {
            "bin/busybox": BUSYBOX.read_bytes(),
            "bin/serve": SERVE.encode(),
            "etc/passwd": b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
            "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
        }
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755 if name.startswith("bin/") else 0o644
            archive.addfile(member, io.BytesIO(content))
        for applet in APPLETS:
            member = tarfile.TarInfo(f"bin/{applet}")
            member.type, member.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(member)
    buffer.seek(0)
    return buffer


def push(config: Path, context: str, image: str = IMAGE) -> str:
    """Put the image into the registries of a context; its digest. Raises Unavailable where one
    does not take it."""
    found = contexts.load_config(config).contexts[context]
    tls = client_context(found.cert, found.key, found.ca)
    defaults = RunDefaults(cmd=("/bin/serve",), env=("PATH=/bin",))
    endpoints = [Endpoint(host, tls, server_name=SERVER_NAME) for host in found.registries]

    async def work() -> Imported:
        async with asyncio.timeout(IMPORT_LIMIT_S):
            return await import_everywhere(endpoints, rootfs(), parse(image), defaults)

    imported = asyncio.run(work())
    if imported.missed:
        raise Unavailable("; ".join(imported.missed))
    return imported.digest


def answer(address: str) -> str:
    """What the published port of a host says, in one line."""
    try:
        with urllib.request.urlopen(f"http://{address}:{PORT}/", timeout=ANSWER_LIMIT_S) as found:
            return str(found.read(200).decode(errors="replace").strip())
    except (urllib.error.URLError, OSError) as error:
        return f"no answer: {error}"


def show(
    directory: Path, name: str, hosts: list[tuple[str, str]], say: Callable[[str], None]
) -> int:
    """Apply the example on a lab that is up, and show it serving; the exit code of `bay apply`.
    `hosts`: name and address of each."""
    say(f"importing the example's image as {IMAGE}")
    push(directory / "bay", name)
    spec = CHECKOUT / "examples/web.yaml"
    say(f"\n$ bay apply {spec.relative_to(CHECKOUT)}")
    environment = {**os.environ, "BAY_CONFIG": str(directory / "bay")}
    command = [sys.executable, "-m", "bayplan.cli", "apply", str(spec)]
    status = subprocess.run(command, env=environment, cwd=CHECKOUT).returncode
    if status:
        return status
    say("\nThe service's published port, asked for at each host:")
    for host, address in hosts:
        say(f"  curl http://{address}:{PORT}/   # {host}: {answer(address)}")
    return 0
