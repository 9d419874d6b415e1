"""One Cloud object: what it is and what is known of it."""

from __future__ import annotations

import base64
import copy
import dataclasses
import os
import re
import secrets
import time
from pathlib import Path
from typing import Any

from cloudfs.errors import CloudError
from cloudfs.kernel import budget, query
from cloudfs.kernel.bell import Bell, Log
from cloudfs.kernel.placement import Wish
from cloudfs.kernel.reserve import wanted
from cloudfs.kernel.stream import Stream
from cloudfs.node.api import Exit, Limits, Running, Usage

# What is kept in the record, and so outlives the daemon, beside limits, exit and used.
KEPT = (
    *("user", "state", "argv", "env", "dir", "app", "labels", "runtime", "net", "restart"),
    *("nice", "require", "prefer", "binds", "created", "started", "changed", "pause"),
    *("why", "asked", "on", "spread", "after", "placed", "offer", "came", "group"),
    *("availability", "tenure", "since", "brought", "budget"),
)


FRESH = 0.25  # seconds; asking the system takes 0.2 ms
ID = re.compile(r"[a-z2-7]{16}")


def new_id() -> str:
    """A random 80-bit id, 16 characters of lower-case base32."""
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()


class Object:
    """A set of local processes wrapped together, under a random 80-bit id."""

    __slots__ = (
        *KEPT,
        "bell",
        "events",
        "exit",
        "fetched",
        "guest",
        "home",
        "id",
        "keys",
        "limits",
        "notes",
        "number",
        "running",
        "sampled",
        "session",
        "stream",
        "told",
        "used",
    )

    def __init__(self, id: str, user: str, number: int, home: Path) -> None:
        self.id = id
        self.user = user
        self.number = number  # of this daemon's life, for qids
        self.home = home  # its state directory
        self.budget: float | None = None  # what it may cost an hour, by the token it runs by
        self.session: object = None  # whose end takes it along while it is new
        self.state = "new"
        self.argv: list[str] = []
        self.env: dict[str, str] = {}
        self.dir = ""  # "" is the runtime's own choice
        self.app = ""
        self.labels: dict[str, str] = {}
        self.runtime = ""  # "" until exec: the node's default
        self.net = "host"
        self.restart = "never"
        self.nice = 0
        self.group = ""  # whose members may do what group bits allow; "": the user's own
        self.limits = Limits()
        self.require: list[str] = []
        self.prefer: list[str] = []
        self.on = ""  # the node that it must run on
        self.spread = ""  # the attribute in which its siblings' nodes should differ
        self.after: list[str] = []  # what comes before it where a whole group is worked on
        self.guest = False  # whether another node chose this one for it, while it is new
        self.came = ""  # not empty until it goes on here that comes from another node
        self.offer = ""  # the token of the last offer of it to a node
        self.placed = ""  # the node that was told to run it and has not answered
        self.availability: dict[str, Any] = {}  # the terms of availability.py; empty: off
        self.tenure: dict[str, Any] = {}  # with a "series": others may restart it (guarding.py)
        self.binds: list[str] = []  # lines that rebuild its name space
        self.created = self.changed = time.time()
        self.started = 0.0
        self.pause = 0.0  # seconds before the last restart
        self.why = ""
        self.used = Usage()  # by its earlier runs
        self.since = 0.0  # when it came here from another node, where it did
        self.brought = 0.0  # seconds of processor time that it had used by then
        self.sampled: tuple[float, Usage] = (0.0, self.used)  # usage of a run, and till when
        self.told: tuple[object, float, str] = (None, 0.0, "")  # status, and what made it
        self.fetched = 0.0  # when another node asked for a part of its image, on trio's clock
        self.stream: Stream | None = None  # its memory, while it is sent as it runs
        self.exit: Exit | None = None
        self.running: Running | None = None
        self.asked = ""  # why somebody had it killed
        self.keys: set[tuple[str, str]] = set()  # where the views have it
        self.bell = Bell()  # rings at every change of state
        self.notes = Log(64)
        self.events = Log(64)

    def wish(self) -> Wish:
        """What it asks of the node that is to run it."""
        return Wish(
            self.id,
            self.on,
            tuple(map(query.parse, self.required())),
            tuple(map(query.parse, self.prefer)),
            self.spread,
            wanted(self.limits),
        )

    def required(self) -> list[str]:
        """The terms that a node must meet, with that of its budget."""
        return [*self.require, *budget.term(self.limits, self.budget)]

    def usage(self) -> Usage:
        """What all its runs have used; of one that runs at most FRESH seconds ago."""
        if self.running is None or self.state == "exited":
            return self.used
        now = time.monotonic()
        if self.sampled[0] <= now:
            self.sampled = now + FRESH, add(self.used, self.running.usage())
        return self.sampled[1]

    def bring(self, created: float, used: Usage) -> None:
        """It comes here from another node, which has billed what was used there."""
        self.created, self.used = created, used
        self.since, self.brought = time.time(), used.user + used.sys

    def link(self, name: str) -> str:
        """What the system says of its first process's "cwd" or "exe"; "" if nothing."""
        if self.running is None:
            return ""
        try:
            return os.readlink(f"/proc/{self.running.pid}/{name}")
        except OSError:
            return ""

    def touch(self) -> None:
        self.changed = time.time()

    def need_running(self) -> Running:
        """Its processes; raises CloudError("busy") if it has none."""
        if self.running is None or self.state not in ("running", "stopped"):
            raise CloudError("busy", f"object {self.id} is {self.state}, it has no processes")
        return self.running

    def to_record(self) -> dict[str, Any]:
        record = {name: getattr(self, name) for name in KEPT}
        record["limits"] = dataclasses.asdict(self.limits)
        record["used"] = dataclasses.asdict(self.used)
        record["exit"] = dataclasses.asdict(self.exit) if self.exit else None
        return record

    @classmethod
    def from_record(cls, id: str, record: dict[str, Any], number: int, home: Path) -> Object:
        made = cls(id, record["user"], number, home)
        for name in KEPT:
            if name in record:  # one of an older version may lack some
                setattr(made, name, record[name])
        made.limits = Limits(**record["limits"])
        made.used = Usage(**record["used"])
        made.exit = Exit(**record["exit"]) if record["exit"] else None
        return made


def anywhere(made: Object) -> Object:
    """The same object, but for the node that it must run on: that may be the one that is lost."""
    there = copy.copy(made)
    there.on = ""
    return there


def add(one: Usage, two: Usage) -> Usage:
    """What two runs used together: sums, but for the memory and processes of now."""

    def both(a: int | None, b: int | None) -> int | None:
        return b if a is None else a if b is None else a + b

    return Usage(
        user=one.user + two.user,
        sys=one.sys + two.sys,
        mem=two.mem,
        mem_peak=max(one.mem_peak, two.mem_peak),
        mem_seconds=one.mem_seconds + two.mem_seconds,
        read=both(one.read, two.read),
        written=both(one.written, two.written),
        pids=two.pids,
    )
