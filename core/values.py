"""Records that nobody changes."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A dataclass, frozen for the type checker alone: to be frozen at run time too would make it four times as slow to
    create, and a call creates dozens.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
