"""A backend: answers each message with its own name and the peer's address. argv: NAME PORT."""

import selectors
import socket
import sys


def main(name: str, port: int) -> None:
    selector = selectors.DefaultSelector()
    tcp = socket.create_server(("", port), backlog=1024)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("", port))
    for sock in (tcp, udp):
        selector.register(sock, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is tcp:
                connection, _ = tcp.accept()
                selector.register(connection, selectors.EVENT_READ)
            elif sock is udp:
                _, peer = udp.recvfrom(100)
                udp.sendto(f"{name} {peer[0]}".encode(), peer)
            else:
                try:
                    if sock.recv(100):
                        sock.send(f"{name} {sock.getpeername()[0]}".encode())
                        continue
                except OSError:
                    pass
                selector.unregister(sock)
                sock.close()


main(sys.argv[1], int(sys.argv[2]))
