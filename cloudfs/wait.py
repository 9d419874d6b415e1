"""Answers that are not there yet.

An operation answers at once or returns a `Wait`; only what can block pays for a task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Wait(Generic[T]):
    """An answer that is not there yet.  `run()` is awaited once, by the adapter."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[[], Awaitable[T]]) -> None:
        self.run = run


def then(result: T | Wait[T], finish: Callable[[T], U | Wait[U]]) -> U | Wait[U]:
    """finish(result), now or when the result is there."""
    if not isinstance(result, Wait):
        return finish(result)
    waiting = result

    async def run() -> U:
        return await settle(finish(await waiting.run()))

    return Wait(run)


async def settle(result: T | Wait[T]) -> T:
    """The answer itself, waited for where it is not there yet."""
    while isinstance(result, Wait):
        result = await result.run()
    return result
