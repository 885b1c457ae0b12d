"""What was made of an object once, kept while that object is asked for."""

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_MOST = 10_000


class Kept(Generic[K, V]):
    """Makes something of an object the first time, and gives it again for the same object.

    By identity: to hash a record, or to compare two, costs more than most of what is made of them. So many are kept;
    then all are made anew.
    """

    __slots__ = ("_kept", "_make")

    def __init__(self, make: Callable[[K], V]) -> None:
        self._make = make
        self._kept: dict[int, tuple[K, V]] = {}  # with the object itself, or another could come to have its id

    def of(self, key: K) -> V:
        """What was made of this object."""
        known = self._kept.get(id(key))
        if known is not None:
            return known[1]
        if len(self._kept) >= _MOST:
            self._kept.clear()
        made = self._make(key)
        self._kept[id(key)] = key, made
        return made
