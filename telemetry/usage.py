"""Tokens by disjoint class, read from answers in OpenAI's shape.

Exact usage (the provider said so) and estimated usage (it did not, or said nonsense) are different types, so that
no estimate can pass for a fact.
"""

from typing import Any

from core.values import value

NO_USAGE = "the answer has no usage"
#: More than any model's context: a count above it is nonsense, not usage.
_ABSURD_TOKENS = 20_000_000


@value
class Tokens:
    """Tokens by class; no token is in two of them.

    input: not from a cache. cached_input: read from one. cache_write: written to one.
    output: visible. reasoning: billed as output, not shown.
    """

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def all_input(self) -> int:
        """Tokens sent."""
        return self.input + self.cached_input + self.cache_write

    @property
    def all_output(self) -> int:
        """Tokens generated."""
        return self.output + self.reasoning


@value
class ExactUsage:
    """The provider's own count."""

    tokens: Tokens


@value
class EstimatedUsage:
    """Our count, from what was sent and received. why: what was wrong with the provider's."""

    tokens: Tokens
    why: str


Usage = ExactUsage | EstimatedUsage


def read_usage(usage: object, *, has_input: bool = True) -> ExactUsage | str:
    """The ``usage`` of an answer as disjoint classes, or in words why it can't be believed.

    OpenAI counts cached tokens inside ``prompt_tokens`` and reasoning inside ``completion_tokens``; they are taken
    out here. has_input: a call that sent text can't have used zero tokens.
    """
    if not isinstance(usage, dict):
        return NO_USAGE
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    inside_prompt, inside_completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    if prompt > 0 and completion >= 0 and inside_prompt is None and inside_completion is None:
        return ExactUsage(Tokens(prompt, 0, 0, completion, 0))  # the usual case: no class is inside another
    cached, written = _count(inside_prompt, "cached_tokens"), _count(inside_prompt, "cache_write_tokens")
    reasoning = _count(inside_completion, "reasoning_tokens")
    if min(prompt, completion, cached, written, reasoning) < 0:
        return "the usage of the answer is no count of tokens"
    if has_input and prompt == 0:
        return "the usage of the answer says that nothing was sent"
    if cached + written > prompt or reasoning > completion:
        return "the usage of the answer contradicts itself"
    return ExactUsage(Tokens(prompt - cached - written, cached, written, completion - reasoning, reasoning))


def _count(holder: object, name: str) -> int:
    """A count of tokens; 0 when it is not there; -1 when it is nonsense."""
    value: Any = holder.get(name) if isinstance(holder, dict) else holder and -1
    if type(value) is int and 0 <= value <= _ABSURD_TOKENS:  # a bool is no count
        return value
    return 0 if value is None else -1


#: Bytes of English text per token in common tokenisers are about four; three leans to the safe side.
_BYTES_PER_TOKEN = 3


def estimate_tokens(text_bytes: int) -> int:
    """Tokens of a text whose count nobody gave: never zero for a text that is not empty."""
    return -(-text_bytes // _BYTES_PER_TOKEN)
