"""Tlook: a file opened and its beginning read by one request, between nodes only."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from cloudfs.errors import CloudError
from cloudfs.wire.messages import LOOK_HEAD, NODES
from tests.synthetic import Dir, Leaf
from tests.wire.talk import GUEST, Talk
from tests.wire.watched import Slow, Watched


def node(root: Dir | None = None, **more: Any) -> Talk:
    """What another node has a session with."""
    talk = Talk("u", root=root, attach=False, **more)
    assert talk.ask("Tversion", 65536, NODES)[0] == "Rversion"
    assert talk.attach(0)[0] == "Rattach"
    return talk


def look(talk: Talk, path: str, fid: int = 1, most: int = 1000, tag: int = 1) -> Any:
    got, fields = talk.ask("Tlook", 0, fid, most, path.split("/"), tag=tag)
    return fields[1] if got == "Rlook" else fields


def test_it_opens_and_reads() -> None:
    talk = node()
    got, (qid, data) = talk.ask("Tlook", 0, 1, 1000, ["dir", "a"])
    assert (got, qid[0], data) == ("Rlook", 0, b"A\n")
    talk.walk("dir/a", 2)
    assert qid[2] == talk.session.fids[2].ref.node.qid
    assert talk.ask("Tread", 1, 1, 10) == ("Rread", (b"\n",))
    assert talk.ask("Tclunk", 1)[0] == "Rclunk"


def test_no_more_than_asked_for_and_than_fits() -> None:
    talk = node(Dir("/", [Leaf("big", bytes(100_000))]))
    assert len(look(talk, "big", most=5)) == 5
    assert len(look(talk, "big", 2, most=1 << 20)) == 65536 - LOOK_HEAD
    assert look(talk, "big", 3, most=0) == b""


def test_it_takes_the_place_of_another() -> None:
    file = Watched()
    talk = node(Dir("/", [file]))
    for opened in range(1, 4):
        assert look(talk, "watched") == b"data"
        assert (file.opened, file.closed) == (opened, opened - 1)
    assert look(talk, "gone")[1] == errno.ENOENT
    assert file.closed == 3  # also by one that fails
    assert talk.session.fids.keys() == {0}


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("dir/gone", errno.ENOENT),
        ("gone/a", errno.ENOENT),
        ("dir", errno.EAGAIN),
        (".MaxTime=0/dir", errno.EINVAL),
        ("hello/x", errno.ENOTDIR),
    ],
)
def test_all_or_nothing(path: str, number: int) -> None:
    talk = node()
    assert look(talk, path)[1] == number
    assert talk.session.fids.keys() == {0}
    assert talk.spaces[0].errors.of("root") or number in (errno.ENOENT, errno.ENOTDIR)


def test_who_may_not_read() -> None:
    talk = node(who=GUEST)
    text, number = look(talk, "secret")
    assert number == errno.EACCES
    assert "guest may not read it" in text
    (line,) = talk.errors.of("guest")
    assert "/secret" in line[1]


def test_a_read_that_fails_closes_the_file() -> None:
    file = Watched()
    file.raises["read"] = CloudError("io", "it is broken")
    talk = node(Dir("/", [file]))
    assert look(talk, "watched")[1] == errno.EIO
    assert (file.opened, file.closed) == (1, 1)


@pytest.mark.parametrize("waits", ["open", "read"])
async def test_one_that_waits(waits: str) -> None:
    file = Watched()
    file.waits = {waits}
    talk = node(Dir("/", [Slow("slow", [file])]))
    got, fields = await talk.eventually("Tlook", 0, 1, 1000, ["slow", "watched"])
    assert (got, fields[1]) == ("Rlook", b"data")
    file.raises[waits] = CloudError("io", "it is broken")
    got, fields = await talk.eventually("Tlook", 0, 1, 1000, ["slow", "watched"])
    assert (got, fields[1]) == ("Rerror", errno.EIO)
    assert file.opened == file.closed
    assert talk.session.fids.keys() == {0}


async def test_one_that_came_too_late_is_closed() -> None:
    file = Watched()
    talk = node(Dir("/", [Slow("slow", [file])]))
    job = talk.blocks("Tlook", 0, 1, 1000, ["slow", "watched"], tag=5)
    talk.session.feed(talk.frame("Tflush", 5, tag=7))
    talk.session.step()
    talk.session.done(job, await job.run())
    assert (file.opened, file.closed) == (1, 1)
    assert [reply[:2] for reply in talk.replies()] == [("Rflush", 7)]
    assert talk.session.fids.keys() == {0}


def test_others_do_not_look() -> None:
    talk = Talk("u")
    assert look(talk, "hello")[1] == errno.EOPNOTSUPP
