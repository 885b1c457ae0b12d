"""How the simulator counts tokens: by the text alone, so that anybody can check its bill.

A token is up to four ASCII letters with the space before them, or up to three digits, or any other single
character. Each token covers at least one character, so a text never has more tokens than UTF-8 bytes; English
comes out at 3 to 4 bytes a token, near the real tokenisers. The count depends on nothing but the text to the
left, so the tokens of a cut-off text are the first tokens of the whole text.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

#: What a chat template adds for the role and the marks around one message.
TEMPLATE_TOKENS_PER_MESSAGE = 4

#: What an encoder adds around one text to embed: a start and an end mark.
TEMPLATE_TOKENS_PER_INPUT = 2

_split = re.compile(r" ?[A-Za-z]{1,4}|[0-9]{1,3}|.", re.DOTALL).findall


def split_tokens(text: str) -> list[str]:
    """The text cut into its tokens; joined again they are the text."""
    tokens: list[str] = _split(text)
    return tokens


def count_tokens(text: str) -> int:
    """The number of tokens of a text; 0 for an empty one, never above its UTF-8 bytes."""
    return len(_split(text))


def count_json(value: object) -> int:
    """The number of tokens of a value's compact JSON text: tools, tool calls, a response format."""
    return len(_split(orjson.dumps(value).decode()))


def count_messages(messages: Sequence[Mapping[str, Any]], tokens_per_image: int) -> int:
    """Prompt tokens of a conversation: texts, names, tool calls and the template's marks.

    Args:
        messages: OpenAI-shaped messages that have been checked: content is text, None or a list of parts.
        tokens_per_image: what each image part costs.
    """
    total = 0
    for message in messages:
        total += TEMPLATE_TOKENS_PER_MESSAGE + _count_content(message.get("content"), tokens_per_image)
        name = message.get("name")
        if isinstance(name, str):
            total += count_tokens(name)
        if message.get("tool_calls"):
            total += count_json(message["tool_calls"])
    return total


def _count_content(content: object, tokens_per_image: int) -> int:
    if isinstance(content, str):
        return len(_split(content))
    if not isinstance(content, list):
        return 0
    texts = [part["text"] for part in content if part["type"] == "text"]
    return sum(map(count_tokens, texts)) + tokens_per_image * (len(content) - len(texts))
