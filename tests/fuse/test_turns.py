"""The lock that pyfuse3's workers share, and the wait for the next request."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from cloudfs.fuse.turns import REQUESTS, SPARE, Turns


class Workers:
    """Tasks that take turns as pyfuse3's workers do."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.lock = turns.Lock()
        self.listening: list[str] = []
        self.go = trio.Event()

    async def listen(self, name: str) -> None:
        async with self.lock:
            self.listening.append(name)
            await self.go.wait()


async def test_the_lock_is_for_one_and_goes_to_the_first_in_line() -> None:
    turns = Turns()
    workers = Workers(turns)
    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(workers.listen, name)
            await trio.testing.wait_all_tasks_blocked()
        assert workers.listening == ["a"]
        turns.pass_on()  # somebody listens already
        await trio.testing.wait_all_tasks_blocked()
        assert workers.listening == ["a"]
        workers.go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert workers.listening == ["a"]  # who lets go comes back
        turns.pass_on()
        await trio.testing.wait_all_tasks_blocked()
        assert workers.listening == ["a", "b"]
        turns.end()
    assert workers.listening == ["a", "b", "c"]


async def test_with_many_in_line_the_next_is_woken() -> None:
    """pyfuse3 ends a worker that finds more than SPARE others: it would not come back."""
    workers = Workers(Turns())
    async with trio.open_nursery() as nursery:
        for number in range(SPARE + 2):
            nursery.start_soon(workers.listen, str(number))
            await trio.testing.wait_all_tasks_blocked()
        workers.go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert workers.listening == ["0", "1"]
        workers.turns.end()


async def test_one_who_is_cancelled_leaves_the_line() -> None:
    turns = Turns()
    workers = Workers(turns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.listen, "a")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.01):
            await workers.listen("b")
        nursery.start_soon(workers.listen, "c")
        await trio.testing.wait_all_tasks_blocked()
        workers.go.set()
        await trio.testing.wait_all_tasks_blocked()
        turns.pass_on()
    assert workers.listening == ["a", "c"]


async def test_others_have_turns_though_requests_never_end() -> None:
    turns = Turns()
    read, write = os.pipe()
    try:
        os.write(write, b"x")
        ticks = []

        async def tick() -> None:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                ticks.append(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            for _ in range(REQUESTS * 4):
                await turns.lowlevel.wait_readable(read)
        assert len(ticks) == 3
        os.read(read, 1)
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.05):
            await turns.lowlevel.wait_readable(read)
    finally:
        os.close(read)
        os.close(write)
