"""Three models, small numbers: a token costs a few nano-dollars, a budget pays for some ten calls."""

from core.keys import ApiKey, KeyRole, digest_of, key_id_of
from core.scope import Scope
from routing.model import Endpoint, Model, ModelRole, Routes
from telemetry.prices import Price, PriceBook

BIG, MID, SMALL = "big", "mid", "small"

ROUTES = Routes(
    [
        Model(BIG, "there", BIG, ModelRole.PRIMARY, 1, default_max_tokens=60, max_output_tokens=200, template_tokens=8),
        Model(
            MID, "there", MID, ModelRole.FALLBACK, 2, default_max_tokens=60, max_output_tokens=150, template_tokens=8
        ),
        Model(SMALL, "there", SMALL, ModelRole.FALLBACK, 3, default_max_tokens=60, max_output_tokens=10_000_000),
    ],
    [Endpoint("there", "openai", "http://there", "x")],
)


def _price(model: str, input_pico: int, output_pico: int, request_nano: int) -> Price:
    return Price(model, 0, input_pico, input_pico, input_pico, output_pico, output_pico, request_nano, "simulation")


#: The price of SMALL depends on its output alone, so its bound is exact.
PRICES = PriceBook([_price(BIG, 1_001, 9_999, 0), _price(MID, 333, 5_003, 50), _price(SMALL, 0, 2_000, 0)])
SMALL_TOKEN_NANO = 2
SMALLEST_CALL_NANO = 2

BOT, OTHER, TEAM = Scope("agent", "bot"), Scope("agent", "other"), Scope("team", "ml")
KEY_TEXT = "sg_agent_simulation00_" + "0" * 64
KEY = ApiKey(key_id_of(KEY_TEXT), "simulation", KeyRole.AGENT, digest_of(KEY_TEXT), (BOT, TEAM), (Scope("agent", "*"),))
