"""A request of a client that is under way."""

from __future__ import annotations

from typing import Any

import trio


class Call:
    """A request: a T-message and its fields, and what becomes of a fid by it.

    makes: a number from `new_fid`, which is free again unless the server made the fid (by
    a walk: took all `steps`).  takes: one that is free again once the server has answered.
    done: where somebody waits for the reply.  sent, took: when the first of those that go
    together went, and after how many seconds it had its reply; 0 for the others.
    """

    __slots__ = ("done", "fields", "makes", "name", "reply", "sent", "steps", "takes", "took")

    def __init__(
        self,
        name: str,
        *fields: Any,
        makes: int | None = None,
        steps: int = 0,
        takes: int | None = None,
    ) -> None:
        self.name = name
        self.fields = fields
        self.makes = makes
        self.steps = steps
        self.takes = takes
        self.done: trio.Event | None = None
        self.reply: tuple[str, tuple[Any, ...]] | None = None
        self.sent = self.took = 0.0

    def made(self) -> bool:
        """Whether the server has made the fid."""
        if self.makes is None or self.reply is None or self.reply[0] != "R" + self.name[1:]:
            return False
        return self.name != "Twalk" or len(self.reply[1][0]) == self.steps
