"""The callers: as many as the variant says, each with one call, some of whom come again."""

import asyncio
import json
import time
from collections import Counter
from typing import Any

import aiohttp

from bench.overspend.product import Target
from bench.overspend.upstream import MESSAGES, PRICED_MODEL, UNPRICED_MODEL
from bench.overspend.variants import Variant

_AGAIN_S = 0.1
_CALL_S = 60
_AGAIN = frozenset({"429", "503", "no connection"})


async def run_crowd(target: Target, variant: Variant) -> Counter[str]:
    """Make all calls; how often each answer was the last one: a status, or ``no connection``."""
    gate = asyncio.Semaphore(variant.concurrency)
    timeout = aiohttp.ClientTimeout(total=_CALL_S)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=target.headers) as session:

        async def caller() -> str:
            async with gate:
                return await _call_until_answered(session, target.chat_url, variant)

        return Counter(await asyncio.gather(*[caller() for _ in range(variant.calls)]))


async def _call_until_answered(session: aiohttp.ClientSession, url: str, variant: Variant) -> str:
    until_s = time.monotonic() + variant.patience_s
    while True:
        answer = await _call(session, url, variant)
        if answer not in _AGAIN or time.monotonic() >= until_s:
            return answer
        await asyncio.sleep(_AGAIN_S)


async def _call(session: aiohttp.ClientSession, url: str, variant: Variant) -> str:
    try:
        async with session.post(url, json=_body(variant)) as answer:
            if answer.status == 200 and variant.hangs_up:
                await _read_first_content(answer)
                answer.close()
            else:
                await answer.read()
            return str(answer.status)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return "no connection"


async def _read_first_content(answer: aiohttp.ClientResponse) -> None:
    async for line in answer.content:
        if line.startswith(b"data: {") and _has_content(json.loads(line.removeprefix(b"data: "))):
            return


def _has_content(event: dict[str, Any]) -> bool:
    return any((choice.get("delta") or {}).get("content") for choice in event.get("choices", []))


def _body(variant: Variant) -> dict[str, Any]:
    body: dict[str, Any] = {"model": PRICED_MODEL if variant.priced else UNPRICED_MODEL, "messages": MESSAGES}
    if variant.max_tokens is not None:
        body["max_tokens"] = variant.max_tokens
    if variant.hangs_up:
        body["stream"] = True
    return body
