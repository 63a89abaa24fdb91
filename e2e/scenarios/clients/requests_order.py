"""Places an order with requests, whose retries are urllib3's own, switched on for POST."""

import json
import sys

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry


def main() -> None:
    url, body, tries, timeout = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    retry = Retry(
        total=tries - 1,
        allowed_methods=None,
        status_forcelist=[429, 500, 502, 503, 504],
        backoff_factor=0.2,
        raise_on_status=False,
    )
    session = requests.Session()
    session.mount("https://", HTTPAdapter(max_retries=retry))
    session.headers["Authorization"] = "Bearer demo"
    if len(sys.argv) > 5:
        session.get(sys.argv[5], timeout=30)
    try:
        answer = session.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=timeout)
        attempts = len(answer.raw.retries.history) + 1 if answer.raw.retries else None
        print(json.dumps({"attempts": attempts, "status": answer.status_code, "error": None}))
    except requests.RequestException as error:
        print(json.dumps({"attempts": None, "status": None, "error": repr(error)}))


main()
