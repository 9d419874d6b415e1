"""The file progress of what takes verbs for many objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudfs.kernel.groups import STATES
from cloudfs.kernel.runs import Runs
from cloudfs.tree.api import Cues, Handle
from cloudfs.tree.files import Row
from cloudfs.tree.handles import Following, Text
from cloudfs.tree.space import Attach


class Progress(Row):
    """`of(subject)`: who conducts its runs, None where nobody does, and what it is called
    there."""

    def __init__(self, of: Callable[[Any], tuple[Runs | None, str]]) -> None:
        super().__init__(
            "progress",
            0o444,
            "How far the last verb that ctl took for all has come: the group's own line, then one "
            f"an object: id, state ({' '.join(STATES)}), from, to, seconds, why.  Under .follow "
            "those lines that change, and the group's own at the end.",
        )
        self._of = of

    def open(self, subject: Any, mode: int, at: Attach, cues: Cues) -> Handle:
        runs, group = self._of(subject)
        if runs is None:
            return Text("")
        return Following(runs.follow(group)) if cues.follow else Text(runs.text(group))
