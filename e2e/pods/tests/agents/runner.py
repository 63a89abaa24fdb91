"""Runs a command for every line, which is a list of its words as JSON, and prints what that printed, as JSON on a line: starting a
program in a pod from outside costs more than most programs."""

import json
import subprocess
import sys

TIMEOUT_S = 90

for line in sys.stdin:
    ended = subprocess.run(json.loads(line), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=TIMEOUT_S)
    print(json.dumps(ended.stdout.decode()))
