"""Ports of a pod, and who gets through: `doors.py serve PORT…` listens, `doors.py try ADDRESS:PORT…` tells of each `open` or `closed`."""

import concurrent.futures
import socket
import sys
import threading

PATIENCE_S = 2


def serve(port):
    listener = socket.create_server(("", port))
    while True:
        listener.accept()[0].close()


def tried(door):
    address, port = door.rsplit(":", 1)
    try:
        socket.create_connection((address, int(port)), PATIENCE_S).close()
        return "open"
    except OSError:
        return "closed"


if sys.argv[1] == "serve":
    for port in sys.argv[2:]:
        threading.Thread(target=serve, args=(int(port),)).start()
else:
    with concurrent.futures.ThreadPoolExecutor(len(sys.argv)) as pool:
        for door, state in zip(sys.argv[2:], pool.map(tried, sys.argv[2:])):
            print(door, state)
