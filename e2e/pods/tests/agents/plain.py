"""A client that knows nothing of proxies, and tries twice: `plain.py HOST NAME`, by a socket of its own."""

import json
import socket
import sys

import placing

host, name = sys.argv[1:3]
body = json.dumps(placing.body(name)).encode()
head = f"POST /v1/orders HTTP/1.1\r\nHost: {host}:18080\r\nAuthorization: Bearer e2e\r\nContent-Type: application/json\r\n"
for _ in range(2):
    try:
        with socket.create_connection((host, 18080), 30) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            said = connection.makefile("rb").readline().decode().strip()
    except OSError as error:
        said = str(error)
    print(said or "closed without a word")
