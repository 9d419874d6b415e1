"""Answers that come by a call: in any order, with what went wrong, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from cloudfs.errors import CloudError
from cloudfs.wait import Done, Soon, Wait, then


class Hand(Soon[Any]):
    """One that is answered by hand."""

    def __init__(self) -> None:
        self.done: Done | None = None
        self.stopped = 0

    def start(self, done: Done) -> None:
        assert self.done is None
        self.done = done

    def stop(self) -> None:
        self.stopped += 1

    def end(self, result: Any = None, error: Exception | None = None) -> None:
        assert self.done is not None
        self.done(result, error)


class Ends:
    """What came of a wait."""

    def __init__(self, wait: Any) -> None:
        self.all: list[tuple[Any, Exception | None]] = []
        assert isinstance(wait, Soon)
        self.wait = wait
        wait.start(lambda result, error: self.all.append((result, error)))

    @property
    def one(self) -> tuple[Any, Exception | None]:
        (found,) = self.all
        return found


def fail(_: Any) -> Any:
    raise CloudError("absent")


def test_what_is_there_already() -> None:
    assert then(1, lambda one: one + 1) == 2
    with pytest.raises(CloudError):
        then(1, fail, lambda error: 5)


def test_nothing_happens_before_the_start() -> None:
    hand = Hand()
    then(then(hand, fail), fail)
    assert hand.done is None


def test_each_step_gets_the_one_before_it() -> None:
    hand = Hand()
    ends = Ends(then(then(hand, lambda n: n + 1), lambda n: n * 10))
    assert not ends.all
    hand.end(1)
    assert ends.one == (20, None)


def test_an_error_skips_the_steps_up_to_who_expects_it() -> None:
    hand = Hand()
    seen: list[str] = []

    def expects(error: CloudError) -> str:
        seen.append(error.kind)
        return "instead"

    ends = Ends(then(then(hand, lambda _: seen.append("never")), str, expects))
    hand.end(error=CloudError("timeout"))
    assert ends.one == ("instead", None)
    assert seen == ["timeout"]


@pytest.mark.parametrize("error", [CloudError("denied"), ValueError("a fault of ours")])
def test_what_nobody_expects_comes_out(error: Exception) -> None:
    hand = Hand()
    ends = Ends(then(hand, lambda _: None))
    hand.end(error=error)
    assert ends.one == (None, error)


def test_only_the_wait_s_own_errors_are_expected() -> None:
    """As an `except` around the awaiting, and not around what is made of it."""
    hand = Hand()
    ends = Ends(then(hand, fail, lambda error: "instead"))
    hand.end(1)
    result, error = ends.one
    assert result is None
    assert isinstance(error, CloudError)
    hand = Hand()
    ends = Ends(then(hand, str, lambda error: "instead"))
    hand.end(error=ValueError())
    assert isinstance(ends.one[1], ValueError)


def test_a_step_that_waits_as_well() -> None:
    """It comes out as the result, for who started it to go on with."""
    first, second = Hand(), Hand()
    ends = Ends(then(then(first, lambda _: second), lambda n: n + 1))
    first.end()
    rest, error = ends.one
    assert error is None
    assert second.done is None
    more = Ends(rest)
    second.end(1)
    assert more.one == (2, None)


def test_a_step_that_needs_a_task() -> None:
    async def run() -> int:
        return 1

    hand = Hand()
    ends = Ends(then(then(hand, lambda _: Wait(run)), lambda n: n + 1))
    hand.end()
    rest, _ = ends.one
    assert isinstance(rest, Wait)
    assert not isinstance(rest, Soon)
    with pytest.raises(StopIteration) as end:
        rest.run().__await__().send(None)  # type: ignore[attr-defined]
    assert end.value.value == 2


def test_a_stop_reaches_what_is_waited_for() -> None:
    hand = Hand()
    ends = Ends(then(then(hand, str), str))
    ends.wait.stop()
    assert hand.stopped == 1
    assert not ends.all
