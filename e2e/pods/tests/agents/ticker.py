"""Places NAME-1, NAME-2, … one after the other, each until it is answered: `ticker.py URL NAME…`, a thread for each name.

Prints for each order its name, the status, and how long it took.
"""

import itertools
import sys
import threading
import time

import placing


def tell(*words):
    # In one piece, or threads' lines get into one another.
    sys.stdout.write(" ".join(map(str, words)) + "\n")


def tick(url, name):
    for number in itertools.count(1):
        order, start = f"{name}-{number}", time.monotonic()
        status = placing.until_answered(url, order, lambda answer: tell("again", order, answer))
        tell(order, status, f"{time.monotonic() - start:.3f}")
        time.sleep(0.1)


for name in sys.argv[2:]:
    threading.Thread(target=tick, args=(sys.argv[1], name)).start()
