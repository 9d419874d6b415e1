"""Random sessions against a model of fids, tags and flush."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.synthetic import Dir, Leaf
from tests.wire.talk import STEADY, Talk, drive
from tests.wire.watched import Slow, Watched

FIDS = st.integers(0, 5)
TAGS = st.integers(1, 8)
PATHS = st.sampled_from(
    [
        [],
        ["file"],
        ["dir"],
        ["dir", "leaf"],
        ["nothing"],
        ["dir", "nothing"],
        ["slow", "x"],
        ["slow", "nothing"],
        ["late"],
        [".."],
        [".follow", "file"],
        ["file", "x"],
    ]
)


@dataclass
class Known:
    """What the client knows of a fid."""

    path: tuple[str, ...]
    state: str = "idle"  # idle, open, moving (a walk or open of it waits)

    @property
    def directory(self) -> bool:
        return self.path in ((), ("dir",), ("slow",))


@dataclass
class Asked:
    """A request that waits: its fid, and what its answer changes."""

    fid: int
    name: str
    newfid: int
    ends: Callable[[], None]


def reach(start: tuple[str, ...], names: list[str]) -> tuple[list[tuple[str, ...]], bool]:
    """(paths passed, whether the walk waits), as the tree below says."""
    there = {(), ("file",), ("dir",), ("dir", "leaf"), ("slow",), ("slow", "x"), ("late",)}
    at, passed, waits = start, [], False
    for name in names:
        if at not in ((), ("dir",), ("slow",)):
            break
        waits = waits or (at == ("slow",) and name not in ("..", ".follow"))
        new = at[:-1] if name == ".." else at if name == ".follow" else (*at, name)
        if new not in there:
            break
        at = new
        passed.append(at)
    return passed, waits


class Model(RuleBasedStateMachine):
    """Each rule sends one message and checks its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.file, self.late = Watched("file"), Watched("late")
        self.late.waits = {"read", "open"}
        children = [Leaf("leaf", b"leaf"), Leaf("x", b"x")]
        root = Dir(
            "/", [self.file, self.late, Dir("dir", children[:1]), Slow("slow", children[1:])]
        )
        self.talk = Talk(root=root)
        self.fids: dict[int, Known] = {0: Known(())}
        self.waiting: dict[int, Asked] = {}  # by tag
        self.flushed: set[int] = set()

    def promised(self) -> set[int]:
        return {asked.newfid for asked in self.waiting.values() if asked.newfid >= 0}

    def ask(self, tag: int, name: str, *fields: Any) -> tuple[str, tuple[Any, ...]] | None:
        """The answer, None if it waits.  A tag in use is refused."""
        replies = self.talk.send(name, *fields, tag=tag)
        if tag in self.waiting:
            assert replies == [("Rlerror", tag, (errno.EPROTO,))]
            return ("Rlerror", (errno.EPROTO,))
        mine = [reply for reply in replies if reply[1] == tag]
        others = [reply for reply in replies if reply[1] != tag]
        for got, other, values in others:  # only a clunk answers what waited on its fid
            assert (got, values) == ("Rlerror", (errno.EINTR,))
            asked = self.waiting.pop(other)
            assert asked.fid == fields[0]
        assert len(mine) <= 1
        return (mine[0][0], mine[0][2]) if mine else None

    def expect(self, tag: int, got: Any, number: int) -> bool:
        """Whether the answer is an error, which must be this one unless the tag is in use."""
        if tag in self.waiting:
            assert got == ("Rlerror", (errno.EPROTO,))
            return True
        if number:
            assert got == ("Rlerror", (number,))
        return bool(number)

    def trouble(self, fid: int, *states: str) -> int:
        """The errno for a fid that is not known or not in one of these states."""
        if fid not in self.fids:
            return errno.EBADF
        return 0 if self.fids[fid].state in states else errno.EINVAL

    @rule(tag=TAGS, fid=FIDS, newfid=FIDS, names=PATHS)
    def walk(self, tag: int, fid: int, newfid: int, names: list[str]) -> None:
        got = self.ask(tag, "Twalk", fid, newfid, names)
        taken = newfid != fid and (newfid in self.fids or newfid in self.promised())
        number = self.trouble(fid, "idle") or (errno.EINVAL if taken else 0)
        if self.expect(tag, got, number):
            return
        known = self.fids[fid]
        passed, waits = reach(known.path, names)
        whole = len(passed) == len(names)

        def ends() -> None:
            if newfid == fid:
                known.state = "idle"
            if whole and newfid == fid:
                known.path = passed[-1] if passed else known.path
            elif whole:
                self.fids[newfid] = Known(passed[-1] if passed else known.path)

        if waits:
            assert got is None
            if newfid == fid:
                known.state = "moving"
            self.waiting[tag] = Asked(fid, "Twalk", newfid if newfid != fid else -1, ends)
            return
        ends()
        if names and not passed:
            assert got is not None
            assert got[0] == "Rlerror"
        else:
            assert got is not None
            assert len(got[1][0]) == len(passed)

    @rule(tag=TAGS, fid=FIDS)
    def open(self, tag: int, fid: int) -> None:
        got = self.ask(tag, "Tlopen", fid, 0)
        if self.expect(tag, got, self.trouble(fid, "idle")):
            return
        known = self.fids[fid]

        def ends() -> None:
            known.state = "open"

        if known.path == ("late",):
            assert got is None
            known.state = "moving"
            self.waiting[tag] = Asked(fid, "Tlopen", -1, ends)
        else:
            assert got is not None
            assert got[0] == "Rlopen"
            ends()

    @rule(tag=TAGS, fid=FIDS)
    def read(self, tag: int, fid: int) -> None:
        got = self.ask(tag, "Tread", fid, 0, 100)
        number = errno.EBADF if self.trouble(fid, "open") else 0
        if not number and self.fids[fid].directory:
            number = errno.EISDIR
        if self.expect(tag, got, number):
            return
        if self.fids[fid].path == ("late",):
            assert got is None
            self.waiting[tag] = Asked(fid, "Tread", -1, lambda: None)
        else:
            assert got is not None
            assert got[0] == "Rread"

    @rule(tag=TAGS, fid=FIDS)
    def stat(self, tag: int, fid: int) -> None:
        got = self.ask(tag, "Tgetattr", fid, 0)
        if not self.expect(tag, got, errno.EBADF if fid not in self.fids else 0):
            assert got is not None
            assert got[0] == "Rgetattr"

    @rule(tag=TAGS, fid=FIDS)
    def clunk(self, tag: int, fid: int) -> None:
        used = tag in self.waiting
        got = self.ask(tag, "Tclunk", fid)
        if used or self.expect(tag, got, errno.EBADF if fid not in self.fids else 0):
            return
        assert got == ("Rclunk", ())
        assert not [asked for asked in self.waiting.values() if asked.fid == fid]
        del self.fids[fid]

    @rule(tag=TAGS, oldtag=TAGS)
    def flush(self, tag: int, oldtag: int) -> None:
        got = self.ask(tag, "Tflush", oldtag)
        if self.expect(tag, got, 0):
            return
        assert got == ("Rflush", ())
        asked = self.waiting.pop(oldtag, None)
        if asked is not None and self.fids[asked.fid].state == "moving":
            self.fids[asked.fid].state = "idle"

    @precondition(lambda self: self.waiting)
    @rule(tag=TAGS, data=st.data())
    def flush_what_waits(self, tag: int, data: st.DataObject) -> None:
        self.flush(tag, data.draw(st.sampled_from(sorted(self.waiting))))

    @rule(tag=TAGS, newfid=FIDS)
    def walk_and_wait(self, tag: int, newfid: int) -> None:
        self.walk(tag, 0, newfid, ["slow", "x"])

    @rule(tag=TAGS, newfid=FIDS)
    def open_and_wait(self, tag: int, newfid: int) -> None:
        self.walk(tag, 0, newfid, ["late"])
        self.open(tag, newfid)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """One of the requests that wait goes on to its end."""
        tag = data.draw(st.sampled_from(sorted(self.waiting)))
        job = self.talk.session.jobs[tag]
        result, error = drive(job)
        replies = self.talk.end(job, result, error)
        asked = self.waiting.pop(tag)
        asked.ends()
        assert [reply[1] for reply in replies] == [tag]
        assert replies[0][0] == "R" + asked.name[1:]

    @rule(fid=FIDS, tag=TAGS)
    def attach(self, fid: int, tag: int) -> None:
        got = self.ask(tag, "Tattach", fid, 0xFFFFFFFF, "x", "", 0)
        taken = fid in self.fids or fid in self.promised()
        if not self.expect(tag, got, errno.EINVAL if taken else 0):
            assert got is not None
            assert got[0] == "Rattach"
            self.fids[fid] = Known(())

    @precondition(lambda self: len(self.fids) > 3)
    @rule()
    def version(self) -> None:
        replies = self.talk.send("Tversion", 65536, "9P2000.L", tag=0xFFFF)
        assert replies == [("Rversion", 0xFFFF, (65536, "9P2000.L"))]
        self.fids, self.waiting = {}, {}
        assert self.file.opened == self.file.closed
        assert self.late.opened == self.late.closed

    @invariant()
    def the_tables_agree(self) -> None:
        session = self.talk.session
        assert session.fids.keys() == self.fids.keys()
        assert session.jobs.keys() == self.waiting.keys()
        assert session.coming == self.promised()
        assert {n: fid.ref.path for n, fid in session.fids.items()} == {
            n: known.path for n, known in self.fids.items()
        }

    @invariant()
    def what_is_open_is_what_was_not_closed(self) -> None:
        for node in (self.file, self.late):
            known = [k for k in self.fids.values() if k.path == (node.name,)]
            assert node.opened - node.closed == sum(k.state == "open" for k in known)

    @invariant()
    def name_spaces_live_as_long_as_their_fids(self) -> None:
        used = {id(fid.tree.space) for fid in self.talk.session.fids.values()}
        alive = {id(s) for s in self.talk.spaces} - {id(s) for s in self.talk.closed}
        assert used == alive
        assert len(self.talk.closed) == len(set(map(id, self.talk.closed)))

    def teardown(self) -> None:
        self.talk.session.close()
        self.talk.replies()
        assert not self.talk.session.fids
        assert not self.talk.session.jobs
        assert self.file.opened == self.file.closed
        assert self.late.opened == self.late.closed
        assert len(self.talk.closed) == len(self.talk.spaces)


TestModel = Model.TestCase
TestModel.settings = settings(STEADY, max_examples=120, stateful_step_count=40)
