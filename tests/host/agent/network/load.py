"""A client: connections as fast as they go for a while, then one JSON line with the answers'
names and what failed. argv: ADDRESS PORT SECONDS (0: ten requests)."""

import collections
import json
import socket
import struct
import sys
import threading
import time

names: collections.Counter[str] = collections.Counter()
peers: set[str] = set()
failed: collections.Counter[str] = collections.Counter()


def request(address: str, port: int) -> None:
    with socket.create_connection((address, port), 3) as sock:
        # Reset at the end: no TIME_WAIT, so that local ports do not run out.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.send(b"x")
        name, peer = sock.recv(100).decode().split()
        names[name] += 1
        peers.add(peer)


def loop(address: str, port: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    left = 10 if not seconds else None
    while time.monotonic() < end or left:
        left = left - 1 if left else None
        try:
            request(address, port)
        except OSError as error:
            failed[str(error)] += 1


address, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
threads = [
    threading.Thread(target=loop, args=(address, port, seconds)) for _ in range(3 if seconds else 1)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"names": names, "peers": sorted(peers), "failed": failed}))
