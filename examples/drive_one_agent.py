"""Drive one agent from Active through Warned and Degraded to a refusal, and check the books.

    make run                                  # in one terminal
    .venv/bin/pip install openai              # in another
    .venv/bin/python examples/drive_one_agent.py \
        --admin-key sg_admin_… --simulator http://127.0.0.1:…    # both are in what `make run` prints

The OpenAI SDK is used as in any program; only its base URL and key point to Spendgate. The example makes a small
budget for an agent of its own, calls until it is refused, prints spend, state and headers as it goes, and compares the
sum with the simulator's own bill, to the nano-dollar.
"""

import argparse
import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from openai import APIStatusError, OpenAI

NANO = Decimal("0.000000001")
PROMPT = "Explain in a few sentences what a budget is for."


def main() -> int:
    """Run the example; 0 if the books agree."""
    options = _options()
    agent = f"example-{time.time_ns() // 1_000_000}"
    _create_budget(options, agent)
    print(f"agent:{agent}  limit $0.003 a day, Warned above 80 %, hard cap 120 %\n")
    print(f"{'call':>4}  {'state':<9} {'model':<36} {'cost $':>12} {'spent $':>12} {'left $':>12}  why")
    spent = Decimal(0)
    client = OpenAI(base_url=f"{options.url}/v1", api_key=options.key)
    for number, headers in enumerate(_calls(client, agent), start=1):
        spent += Decimal(headers["x-cost-usd"])
        state, model, why = headers["x-budget-state"], headers["x-model-served"], headers.get("x-downgrade-reason", "")
        numbers = [headers[f"x-{name}"] for name in ("cost-usd", "budget-spent", "budget-remaining")]
        print(f"{number:>4}  {state:<9} {model:<36} {numbers[0]:>12} {numbers[1]:>12} {numbers[2]:>12}  {why}")
    booked = _get(options.url, f"/api/dashboard/spend/{agent}?scopeType=agent", options.admin_key)["spent"]
    print(f"\nsum of the answers' costs  ${spent:f}\nSpendgate's books          ${booked:f}")
    agree = spent == booked
    if options.simulator:
        billed = _bill(options, agent)
        print(f"the simulator's bill       ${billed.normalize():f}")
        agree = agree and billed == booked
    print("\nThey agree to the nano-dollar." if agree else "\nTHEY DO NOT AGREE.")
    return 0 if agree else 1


def _calls(client: OpenAI, agent: str) -> Iterator[Mapping[str, str]]:
    """Call until the budget refuses; the headers of each answer."""
    while True:
        try:
            answer = client.chat.completions.with_raw_response.create(
                model="dbrx",
                messages=[{"role": "user", "content": PROMPT}],
                max_tokens=120,
                extra_headers={"X-Budget-Scope-Type": "agent", "X-Budget-Scope-Key": agent},
            )
        except APIStatusError as error:
            if error.status_code != 402:
                raise
            print(f"\n{error.status_code} {error.response.json()['error']['message']}")
            return
        yield answer.headers


def _create_budget(options: argparse.Namespace, agent: str) -> None:
    spec = {
        "scopeType": "agent",
        "scopeKey": agent,
        "limitUsd": "0.003",
        "allowSmallerMaxTokens": False,
        "downgrade": [{"from": "*", "to": "mixtral"}],
    }
    _get(options.url, "/api/budgets", options.admin_key, json.dumps(spec).encode())


def _bill(options: argparse.Namespace, agent: str) -> Decimal:
    """What the simulator counted for this agent, at the list prices: each call rounded up to a nano-dollar."""
    models = _get(options.url, "/api/models", options.admin_key)["models"]
    prices = {m["name"]: m["usdPerMillionTokens"] for m in models}
    total = Decimal(0)
    for call in _get(options.simulator, "/simulator/bill?recent=100000")["client_request_ids"]:
        if call["usage_context"].get("agent") == agent:
            price = prices[call["model"]]
            usd = _share(price["input"], call["prompt_tokens"]) + _share(price["output"], call["completion_tokens"])
            total += usd.quantize(NANO, rounding="ROUND_CEILING")
    return total


def _get(url: str, path: str, key: str | None = None, body: bytes | None = None) -> Any:
    """The JSON of an answer, money as Decimal; a POST if there is a body."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with urllib.request.urlopen(urllib.request.Request(url + path, body, headers)) as answer:
        return json.loads(answer.read(), parse_float=Decimal)


def _share(usd_per_million: Any, tokens: int) -> Decimal:
    return Decimal(usd_per_million) * tokens / 1_000_000


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    quickstart = Path(".spendgate/quickstart.key")
    key = quickstart.read_text().strip() if quickstart.exists() else None
    parser.add_argument("--url", default=os.environ.get("SPENDGATE_URL", "http://127.0.0.1:8080"), help="the gateway")
    parser.add_argument("--key", default=os.environ.get("SPENDGATE_KEY", key), help="agent key (default: quickstart)")
    parser.add_argument("--admin-key", default=os.environ.get("SPENDGATE_ADMIN_KEY"), help="admin key")
    parser.add_argument("--simulator", help="the simulated Databricks, to compare with its bill")
    options = parser.parse_args()
    for name in ("key", "admin_key"):
        if not getattr(options, name):
            parser.error(f"--{name.replace('_', '-')} is needed; spendgate serve printed it")
    return options


if __name__ == "__main__":
    sys.exit(main())
