"""Price overrides as JSON: the stored form of `telemetry.prices.Override`."""

import json

from telemetry.prices import RATES, Override, price_of

#: Kind of the documents that hold price overrides.
PRICE_KIND = "price"


def dump_override(override: Override) -> bytes:
    """The stored form of an override."""
    price = override.price
    data = {
        "id": override.id,
        "model": price.model,
        "effectiveFromMs": price.effective_from_ms,
        "endsMs": override.ends_ms,
        "pico": {name: getattr(price, f"{name}_pico") for name in RATES},
        "requestNano": price.request_nano,
        "source": price.source,
        "reason": override.reason,
        "createdMs": override.created_ms,
    }
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def load_override(text: bytes, *, revision: int) -> Override:
    """The override behind `dump_override`'s text.

    Raises:
        KeyError, TypeError, ValueError: the text was not written by `dump_override`.
    """
    data = json.loads(text)
    price = price_of(
        data["model"],
        int(data["effectiveFromMs"]),
        {name: int(data["pico"][name]) for name in RATES},
        request_nano=int(data["requestNano"]),
        source=data["source"],
        override_id=data["id"],
    )
    ends_ms = data["endsMs"]
    return Override(price, None if ends_ms is None else int(ends_ms), data["reason"], data["createdMs"], revision)
