"""Who takes part, by the name that `--only` knows."""

from bench.speed.contestant import Contestant
from bench.speed.ferrogw import Ferrogw
from bench.speed.litellm import LiteLLM, LiteLLMWithBudget
from bench.speed.lmproxy import LMProxy
from bench.speed.nginx import Nginx
from bench.speed.portkey import Portkey
from bench.speed.rolter import Rolter
from bench.speed.smg import Smg
from bench.speed.spendgate import Spendgate
from bench.speed.tensorzero import TensorZero

#: What every other figure is set beside.
YARDSTICK = "nginx"

CONTESTANTS: dict[str, Contestant] = {
    YARDSTICK: Nginx(),
    "spendgate": Spendgate(),
    "spendgate-2": Spendgate(workers=2),
    "ferrogw": Ferrogw(),
    "ferrogw-budget": Ferrogw(with_budget=True),
    "litellm": LiteLLM(),
    "litellm-budget": LiteLLMWithBudget(),
    "lm-proxy": LMProxy(),
    "portkey": Portkey(),
    "rolter": Rolter(),
    "smg": Smg(),
    "tensorzero": TensorZero(),
}

#: What `--quick` leaves out unless it is named.
SLOW = ("spendgate-2", "ferrogw-budget", "litellm-budget", "lm-proxy")

#: Looked for, and not to be had from a package registry alone.
ABSENT = {
    "Bifrost (Go)": "its npm package holds no gateway; it downloads one at its first start",
    "agentgateway, Envoy AI Gateway, Plano, Kong, Helicone, LLM Gateway": "no server on PyPI or npm",
}
