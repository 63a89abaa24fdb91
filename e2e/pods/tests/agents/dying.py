"""Places an order, and dies at once when its pod is deleted, as most programs do: `dying.py URL NAME ORDERS NAME-OF-REPORT`.

Once the order is answered, the status is told as an order named `NAME-OF-REPORT-STATUS`.
"""

import os
import signal
import sys
import time

import placing

url, name, orders, report = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
placing.until_answered(orders, f"{report}-{placing.until_answered(url, name)}")
while True:
    time.sleep(3600)
