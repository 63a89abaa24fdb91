"""A trading agent as people write them: `requests`, a timeout, and a retry loop of its own around a POST.

It knows nothing of Kybernis. Run it bare, or under `kybernis run -- python trader.py ...`.
"""

import argparse
import json
import sys
import time
import uuid

import requests


def place(session, args):
    """Sends the order until somebody says that it is placed, as a careful programmer would."""
    order = {"client_order_id": args.order, "symbol": args.symbol, "side": "buy", "qty": args.qty, "price": args.price}
    headers = {"Authorization": "Bearer demo"}
    for attempt in range(1, args.attempts + 1):
        if args.fresh_keys:
            headers["Idempotency-Key"] = str(uuid.uuid4())
        try:
            answer = session.post(args.url, json=order, headers=headers, timeout=args.timeout)
        except requests.RequestException as error:
            print(f"  try {attempt}: {type(error).__name__}", flush=True)
            time.sleep(args.pause)
            continue
        told = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        note = " (the first call's answer)" if answer.headers.get("Idempotent-Replayed") else ""
        print(f"  try {attempt}: {answer.status_code} {told.get('code') or told.get('order_id') or ''}{note}", flush=True)
        if answer.status_code < 300:
            return 0
        if told.get("detail") and args.verbose:
            print(f"         {told['detail']}", flush=True)
        if answer.status_code in (409, 429) or answer.status_code >= 500:
            time.sleep(args.pause)
            continue
        return 1
    return 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--order", required=True, help="the client's own id of the order")
    parser.add_argument("--symbol", default="AAPL")
    parser.add_argument("--qty", type=int, default=5)
    parser.add_argument("--price", type=float, default=190.5)
    parser.add_argument("--attempts", type=int, default=4)
    parser.add_argument("--timeout", type=float, default=5.0)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between tries")
    parser.add_argument("--fresh-keys", action="store_true", help="a new Idempotency-Key on every try")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    with requests.Session() as session:
        return place(session, args)


if __name__ == "__main__":
    sys.exit(main())
