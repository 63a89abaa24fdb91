"""Places one order until it is answered, and prints the status: `order.py URL NAME [stay]`."""

import sys
import time

import placing

print(placing.until_answered(sys.argv[1], sys.argv[2], lambda answer: print("again:", answer, file=sys.stderr)), flush=True)
while sys.argv[3:] == ["stay"]:
    time.sleep(3600)
