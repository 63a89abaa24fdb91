"""How agents place orders: with `requests`, and again until somebody has said what became of it."""

import time

import requests

HEADERS = {"Authorization": "Bearer e2e"}
# The far side or Kybernis may know better in a moment.
AGAIN = {408, 409, 429, 500, 502, 503, 504}
PACE_S = 0.2


def body(name):
    """One body for every endpoint of the broker: an order's members, and a refund's."""
    order = {"client_order_id": name, "symbol": "AAPL", "side": "buy", "qty": 5, "price": 190.5}
    return {**order, "payment_id": name, "amount": "9.50"}


def once(url, name):
    """The status, or the name of what went wrong."""
    try:
        return requests.post(url, json=body(name), headers=HEADERS, timeout=60).status_code
    except requests.RequestException as error:
        return type(error).__name__


def until_answered(url, name, tell=lambda answer: None):
    """The status that is not worth another try; `tell` hears of those that are."""
    while True:
        answer = once(url, name)
        if isinstance(answer, int) and answer not in AGAIN:
            return answer
        tell(answer)
        time.sleep(PACE_S)
