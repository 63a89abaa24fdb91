"""Places an order with httpx and a retry loop of its own."""

import json
import sys
import time

import httpx


def main() -> None:
    url, body, tries, timeout = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    headers = {"Authorization": "Bearer demo", "Content-Type": "application/json"}
    result = {"attempts": 0, "status": None, "error": None}
    with httpx.Client(timeout=timeout) as client:
        if len(sys.argv) > 5:
            client.get(sys.argv[5], headers=headers, timeout=30)
        for attempt in range(1, tries + 1):
            try:
                answer = client.post(url, content=body, headers=headers)
                result = {"attempts": attempt, "status": answer.status_code, "error": None}
                if answer.status_code != 429 and answer.status_code < 500:
                    break
            except httpx.TransportError as error:
                result = {"attempts": attempt, "status": None, "error": repr(error)}
            if attempt < tries:
                time.sleep(0.2 * 2 ** (attempt - 1))
    print(json.dumps(result))


main()
