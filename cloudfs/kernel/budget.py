"""What an object may cost an hour, by the token that it is begun, moved or copied with.

Such an object needs a limit cpu, and then costs no more than that times what its node asks for
a core-hour.  Placement goes by the term `price<=…` that follows (`Object.required`); the node
where it starts looks once more.
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


def hourly(limits: Limits, price: float) -> float:
    """What an object costs an hour where a core-hour has that price; without a limit cpu it
    is taken for one core."""
    return (limits.cpu or 1.0) * price


def term(limits: Limits, budget: float | None) -> list[str]:
    """The term that a node must meet for a budget, if there is one."""
    if budget is None or not limits.cpu:
        return []
    return [f"price<={budget / limits.cpu:.9g}"]


def charged(made: Object, who: Who, act: Callable[[], Wait[None] | None]) -> Wait[None] | None:
    """Do what has it run by the token of who asks from now on; as before if that fails.
    CloudError("denied") where the token has a highest price and the object no limit cpu.  The
    owner of a node, who may drain it, leaves the budgets of others as they are."""
    before, budget = made.budget, made.budget if who.boss else who.budget
    if budget == before:
        return act()
    _need_limit(made.limits, budget)
    made.budget = budget
    try:
        result = act()
    except CloudError:
        made.budget = before
        raise
    return None if result is None else Wait(partial(_or_as_before, made, before, result))


async def _or_as_before(made: Object, before: float | None, rest: Wait[None] | None) -> None:
    try:
        await settle(rest)
    except CloudError:
        made.budget = before
        raise


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


def _need_limit(limits: Limits, budget: float | None) -> None:
    if budget is not None and not limits.cpu:
        raise CloudError(
            "denied",
            f"the token allows {budget:g} an hour, and the object may use any number of cores",
            "limit it first: echo limit cpu=1 > ctl",
        )
