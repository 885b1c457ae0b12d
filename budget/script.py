"""Lua scripts of the live state."""

import hashlib
import re
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from budget.connect import StoreClient
from budget.frames import packed, unpacked

_INCLUDE = re.compile(r"-- include (\w+\.lua)\n")


class Script:
    """A script called by its hash, and loaded again when the store has forgotten it."""

    def __init__(self, package: str, name: str) -> None:
        folder = files(package).joinpath("lua")
        text = folder.joinpath(f"{name}.lua").read_text()
        self.text = _INCLUDE.sub(lambda found: folder.joinpath(found[1]).read_text(), text)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: list[str], args: list[str | bytes]) -> bytes:
        """What calls it by its hash."""
        return packed("EVALSHA", self.sha, len(keys), *keys, *args)

    async def call(self, client: StoreClient, keys: list[str], args: list[str | bytes]) -> Any:
        """The script's reply.

        Raises:
            redis.exceptions.RedisError, OSError: as the client does.
        """
        try:
            return await client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.eval(self.text, len(keys), *keys, *args)

    async def call_then(self, client: Redis, command: bytes, *then: tuple[str | int, ...]) -> list[Any]:
        """The replies of a `command` and of these, all on one connection and in one round trip.

        Raises:
            redis.exceptions.RedisError, OSError: as the client does.
        """
        words = unpacked(command)[2:]
        for name, text in (("EVALSHA", self.sha), ("EVAL", self.text)):
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.execute_command(name, text, *words)
                for following in then:
                    pipeline.execute_command(*following)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
            if not isinstance(replies[0], NoScriptError):
                break
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies
