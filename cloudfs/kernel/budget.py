"""What an object may cost an hour, by the token that it is begun, moved or copied with.

Such an object needs a limit cpu, and then costs no more than that times what its node asks for
a core-hour.  Placement goes by the term `price<=…` that follows (`Object.required`); the budget
goes along with the object, and each node where it starts looks once more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from cloudfs.errors import CloudError
from cloudfs.kernel.query import number
from cloudfs.node.api import Limits
from cloudfs.wait import Wait, settle

if TYPE_CHECKING:
    from cloudfs.kernel.object import Object
    from cloudfs.kernel.placement import Attributes
    from cloudfs.who import Who

ROUNDING = 1 + 1e-6
LEAST = 0.01  # cores that a limit leaves at least (node/cgroup.py)


def hourly(limits: Limits, price: float) -> float:
    """What an object costs an hour where a core-hour has that price; without a limit cpu it
    is taken for one core."""
    return _cores(limits) * price


def _cores(limits: Limits) -> float:
    return max(limits.cpu or 1.0, LEAST)


def term(limits: Limits, budget: float | None) -> list[str]:
    """The term that a node must meet for a budget, if there is one."""
    if budget is None or not limits.cpu:
        return []
    return [f"price<={budget / _cores(limits):.9g}"]


def charged(
    made: Object,
    who: Who,
    act: Callable[[], Wait[None] | None],
    keep: Callable[[Object], None],
    after: bool = False,
) -> Wait[None] | None:
    """Do what has it run by the token of who asks from now on; as before if that fails, or
    `after` it.  keep: keeps the object's record.

    CloudError("denied") where the token has a highest price and the object no limit cpu.  The
    owner of a node, who may drain it, leaves the budgets of others as they are.
    """
    if who.boss:
        return act()
    _need_limit(made.limits, who.budget)
    before = made.budget
    if who.budget == before:
        return act()

    def back() -> None:
        made.budget = before
        keep(made)

    made.budget = who.budget
    try:
        result = act()
    except CloudError:
        made.budget = before
        raise
    if result is not None:
        return Wait(partial(_or_back, result, back, after))
    if after:
        back()
    return None


async def _or_back(rest: Wait[None] | None, back: Callable[[], None], after: bool) -> None:
    try:
        await settle(rest)
    except CloudError:
        back()
        raise
    if after:
        back()


def need(limits: Limits, budget: float | None, own: Callable[[], Attributes]) -> None:
    """CloudError("denied") where an object with these limits costs more here than a budget.
    own(): this node's attributes."""
    if budget is None:
        return
    _need_limit(limits, budget)
    hour = hourly(limits, number(own().get("price")) or 0.0)
    if hour > budget * ROUNDING:
        raise CloudError(
            "denied", f"it would cost {hour:g} an hour here, and the token allows {budget:g}"
        )


def need_none(who: Who, what: str) -> None:
    """CloudError("denied") for who has a budget: it could not be kept."""
    if who.budget is not None:
        raise CloudError("denied", f"{what} is not allowed by a token with a highest price")


class Within:
    """What a program may that was begun with a budget: all that its user may, within that."""

    def __init__(self, budget: float) -> None:
        self.budget = budget

    def admit(self, **what: str) -> None:
        """Anything."""


def _need_limit(limits: Limits, budget: float | None) -> None:
    if budget is not None and not limits.cpu:
        raise CloudError(
            "denied",
            f"the token allows {budget:g} an hour, and the object may use any number of cores",
            "limit it first: echo limit cpu=1 > ctl",
        )
