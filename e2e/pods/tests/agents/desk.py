"""Places an order for every line `URL NAME`, and prints the status or what went wrong. One client for life: the roots that it trusts
are those of its start."""

import sys

import httpx

import placing

client = httpx.Client(timeout=60)
print("ready")
for line in sys.stdin:
    url, name = line.split()
    try:
        print(client.post(url, json=placing.body(name), headers=placing.HEADERS).status_code)
    except httpx.HTTPError as error:
        print(type(error).__name__)
