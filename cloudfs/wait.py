"""Answers that are not there yet.

An operation answers at once or returns a `Wait`; only what can block pays for a task, and
a `Soon` not even then: it is completed by a call from wherever its answer comes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, TypeVar, overload

import trio

from cloudfs.errors import CloudError

T = TypeVar("T")
U = TypeVar("U")
Done = Callable[[Any, Exception | None], None]  # (result, error) of what has ended


class Wait(Generic[T]):
    """An answer that is not there yet.  `run()` is awaited once, by the adapter."""

    __slots__ = ("_run",)

    def __init__(self, run: Callable[[], Awaitable[T]]) -> None:
        self._run = run

    def run(self) -> Awaitable[T]:
        return self._run()


class Soon(Wait[T]):
    """A Wait that needs no task; it keeps its own deadline.

    An adapter that can be called back calls `start` once instead of awaiting `run`.
    Nothing has happened before either; one that is never started leaves nothing.
    """

    __slots__ = ()

    def __init__(self) -> None:
        pass

    def start(self, done: Done) -> None:
        """Begin.  done(result, error) is called once, maybe before this returns; a result
        that is a Wait is to be waited for next, as `settle` does.  Never raises."""
        raise NotImplementedError

    def stop(self) -> None:
        """Nobody wants it any more.  Called only between `start` and `done`, which is not
        called then; a result that comes all the same is put away here."""
        raise NotImplementedError

    async def run(self) -> T:
        """The same for code that awaits."""
        ended: list[tuple[Any, Exception | None]] = []
        task: trio.lowlevel.Task | None = None

        def done(result: Any, error: Exception | None) -> None:
            ended.append((result, error))
            if task is not None:
                trio.lowlevel.reschedule(task)

        def leave(_: object) -> trio.lowlevel.Abort:
            self.stop()
            return trio.lowlevel.Abort.SUCCEEDED

        self.start(done)
        if not ended:
            task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(leave)
        result, error = ended[0]
        if error is not None:
            raise error
        return await settle(result)


class _Then(Soon[U]):
    """What `then` makes of a Soon."""

    __slots__ = ("_failed", "_finish", "_first")

    def __init__(
        self,
        first: Soon[T],
        finish: Callable[[T], U | Wait[U]],
        failed: Callable[[CloudError], U | Wait[U]] | None,
    ) -> None:
        self._first = first
        self._finish = finish
        self._failed = failed

    def start(self, done: Done) -> None:
        self._first.start(partial(self._go_on, done))

    def stop(self) -> None:
        self._first.stop()

    def _go_on(self, done: Done, result: Any, error: Exception | None) -> None:
        try:
            if error is None:
                result = then(result, self._finish, self._failed)
            elif self._failed is not None and isinstance(error, CloudError):
                result, error = self._failed(error), None
        except Exception as reason:
            result, error = None, reason
        done(result, error)


@overload
def then(
    result: Wait[T],
    finish: Callable[[T], U | Wait[U]],
    failed: Callable[[CloudError], U | Wait[U]] | None = None,
) -> Wait[U]: ...


@overload
def then(
    result: T | Wait[T],
    finish: Callable[[T], U | Wait[U]],
    failed: Callable[[CloudError], U | Wait[U]] | None = None,
) -> U | Wait[U]: ...


def then(
    result: T | Wait[T],
    finish: Callable[[T], U | Wait[U]],
    failed: Callable[[CloudError], U | Wait[U]] | None = None,
) -> U | Wait[U]:
    """finish(result), now or when the result is there.

    failed: what comes instead of a CloudError of a result that was waited for; it may
    raise it again.
    """
    if not isinstance(result, Wait):
        return finish(result)
    if isinstance(result, Soon):
        return _Then(result, finish, failed)
    return Wait(partial(_later, result, finish, failed))


async def _later(
    waiting: Wait[T],
    finish: Callable[[T], U | Wait[U]],
    failed: Callable[[CloudError], U | Wait[U]] | None,
) -> U:
    try:
        result: T = await settle(waiting)
    except CloudError as error:
        if failed is None:
            raise
        return await settle(failed(error))
    return await settle(finish(result))


async def settle(result: T | Wait[T]) -> T:
    """The answer itself, waited for where it is not there yet."""
    while isinstance(result, Wait):
        result = await result.run()
    return result
