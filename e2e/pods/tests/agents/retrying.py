"""`requests` with urllib3's `Retry` on POST, as people write it: `retrying.py URL NAME`."""

import sys

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

import placing

retry = Retry(total=4, backoff_factor=0.1, status_forcelist=[500, 502, 503, 504], allowed_methods=None)
session = requests.Session()
session.mount("http://", HTTPAdapter(max_retries=retry))
answer = session.post(sys.argv[1], json=placing.body(sys.argv[2]), headers=placing.HEADERS, timeout=20)
print(answer.status_code, answer.text)
