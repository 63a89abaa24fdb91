"""Is in the middle of something when its pod is deleted, finishes it, tells the broker what came of it, and ends.

`closing.py stream URL ORDERS NAME` reads a stream of events; `closing.py answer URL ORDERS NAME` waits for a slow answer. What came is
told as an order named `NAME-COUNT-asked` or `NAME-STATUS-asked`: `asked` when the pod's end had been asked for before it came whole.
"""

import signal
import sys
import time

import requests

import placing

what, url, orders, name = sys.argv[1:]
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
if what == "stream":
    with requests.get(url, headers=placing.HEADERS, stream=True, timeout=60) as answer:
        came = sum(line.startswith(b"data:") for line in answer.iter_lines())
else:
    came = placing.once(url, name)
print(placing.until_answered(orders, f"{name}-{came}-{'asked' if asked else 'unasked'}"))
while not asked:
    time.sleep(0.1)
