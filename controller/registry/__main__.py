"""`python -m controller.registry`: started and supervised by the controller, which holds a pipe to
its standard input and reads the address it listens on from its standard output."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import structlog
from cryptography import x509

from bayplan import log as logging
from bayplan import pki
from bayplan.https import HttpsServer, server_context
from controller.registry.access import AccessFile
from controller.registry.service import Registry
from controller.registry.storage import Storage

RELOAD_INTERVAL_S = 5.0

log = structlog.get_logger()


def serial(certificate: bytes) -> str:
    """The serial number of a DER certificate, in hex."""
    return pki.serial_hex(x509.load_der_x509_certificate(certificate))


def _on_stdin_closed(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """The controller holds the other end of standard input; it closes however the controller
    ends, kill -9 included."""

    def readable() -> None:
        if not os.read(0, 1):
            loop.remove_reader(0)
            stop.set()

    loop.add_reader(0, readable)


async def serve(args: argparse.Namespace) -> None:
    context = server_context(args.certificate, args.key, args.ca)
    registry = Registry(Storage(args.root), AccessFile(args.access), serial)
    server = HttpsServer(registry, context=context)
    host, _, port = args.listen.rpartition(":")
    await server.start(host.strip("[]"), int(port))
    print(f"{server.address[0]}:{server.address[1]}", flush=True)  # noqa: T201
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _on_stdin_closed(loop, stop)
    seen = args.certificate.stat().st_mtime_ns
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), RELOAD_INTERVAL_S)
        except TimeoutError:
            now = args.certificate.stat().st_mtime_ns
            if now != seen:
                context.load_cert_chain(args.certificate, args.key)
                seen = now
                log.info("certificate renewed")
    await server.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="controller.registry", description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--listen", required=True, help="HOST:PORT; port 0: a free one")
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--access", type=Path, required=True)
    args = parser.parse_args()
    logging.configure()
    try:
        asyncio.run(serve(args))
    except OSError as error:
        print(f"registry: cannot listen on {args.listen}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
