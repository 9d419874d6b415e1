"""What a transcript cannot show: limits, callbacks, exceptions, pieces, what is closed."""

from __future__ import annotations

import errno
import logging
from typing import Any

import pytest

from cloudfs.errors import CloudError
from cloudfs.tree.api import Entries, Node, Stat, Who
from cloudfs.tree.space import Attach
from cloudfs.wire.codec import BadMessage, codec
from cloudfs.wire.fids import MAX_FIDS, MAX_TAGS
from cloudfs.wire.messages import NOFID
from cloudfs.wire.ops import SEPARATE
from cloudfs.wire.session import TURN_BYTES, TURN_FRAMES
from tests.synthetic import Dir, Leaf
from tests.wire.talk import GUEST, Talk, refused
from tests.wire.watched import Watched, WatchedHandle


@pytest.fixture
def file() -> Watched:
    return Watched()


@pytest.fixture
def talk(file: Watched) -> Talk:
    return Talk(root=Dir("/", [file, Leaf("hello", b"hello\n", 0o444)], 0o777))


def test_handles_are_closed_once(talk: Talk, file: Watched) -> None:
    for fid in range(1, 5):
        talk.open("watched", fid)
    talk.ask("Tclunk", 1)
    assert (file.opened, file.closed) == (4, 1)
    talk.ask("Tremove", 2)
    assert (file.closed, file.removed) == (2, 1)
    talk.session.close()
    assert file.closed == 4
    assert len(talk.closed) == 1
    talk.session.close()
    assert file.closed == 4


async def test_a_fid_clunked_while_a_read_waits_is_closed_after_it(
    talk: Talk, file: Watched
) -> None:
    file.waits = {"read"}
    talk.open("watched")
    job = talk.blocks("Tread", 1, 0, 10, tag=5)
    talk.session.feed(talk.frame("Tclunk", 1, tag=6))
    talk.session.step()
    assert file.closed == 0
    talk.session.done(job, error=CloudError("interrupted"))
    assert file.closed == 1
    assert [reply[:2] for reply in talk.replies()] == [("Rlerror", 5), ("Rclunk", 6)]


@pytest.mark.parametrize("message", ["Tclunk", "Tremove"])
def test_what_close_says_is_told(talk: Talk, file: Watched, message: str) -> None:
    file.raises["close"] = CloudError("bad", "the last line was nonsense")
    talk.open("watched")
    reply = talk.ask(message, 1)
    if message == "Tclunk":
        assert refused(reply) == errno.EINVAL
        assert "nonsense" in talk.errors.of("root")[-1][1]
    assert refused(talk.ask("Tclunk", 1)) == errno.EBADF


async def test_a_close_may_take_its_time(talk: Talk, file: Watched) -> None:
    file.waits = {"close"}
    talk.open("watched")
    assert await talk.eventually("Tclunk", 1) == ("Rclunk", ())
    file.raises["close"] = CloudError("full", "no room for the last line")
    talk.open("watched")
    assert refused(await talk.eventually("Tclunk", 1)) == errno.ENOSPC
    assert "no room" in talk.errors.of("root")[-1][1]


async def test_files_left_open_are_closed_by_jobs_nobody_waits_for(
    talk: Talk, file: Watched
) -> None:
    file.waits = {"close"}
    talk.open("watched")
    talk.session.close()
    (job,) = talk.session.started
    assert job.tag is None
    assert await talk.wait() == []
    talk.replies()
    assert await talk.wait() == []
    assert file.closed == 1


def test_an_open_that_came_too_late_is_closed(talk: Talk, file: Watched) -> None:
    file.waits = {"open"}
    talk.walk("watched")
    job = talk.blocks("Tlopen", 1, 0, tag=5)
    assert refused(talk.ask("Tlopen", 1, 0, tag=6)) == errno.EINVAL
    talk.session.feed(talk.frame("Tflush", 5, tag=7))
    talk.session.step()
    handle = WatchedHandle(file)
    talk.session.done(job, handle)
    assert file.closed == 1
    assert [reply[:2] for reply in talk.replies()] == [("Rflush", 7)]
    file.waits = set()
    assert talk.ask("Tlopen", 1, 0)[0] == "Rlopen"


async def test_opens_that_wait_and_fail_can_be_tried_again(talk: Talk, file: Watched) -> None:
    file.waits = {"open"}
    file.raises["open"] = CloudError("timeout", "the far node does not answer")
    talk.walk("watched")
    assert refused(await talk.eventually("Tlopen", 1, 0)) == errno.ETIMEDOUT
    del file.raises["open"]
    assert (await talk.eventually("Tlopen", 1, 0))[0] == "Rlopen"
    assert (await talk.eventually("Tread", 1, 0, 9)) == ("Rread", (b"data",))


async def test_everything_may_take_its_time(talk: Talk, file: Watched) -> None:
    file.waits = {"stat", "wstat", "remove", "read", "write"}
    talk.open("watched", mode=2)
    assert (await talk.eventually("Tgetattr", 1, 0))[0] == "Rgetattr"
    zeros = (0,) * 8
    assert (await talk.eventually("Tsetattr", 1, 8, *zeros))[0] == "Rsetattr"
    assert (await talk.eventually("Twrite", 1, 0, b"more"))[1] == (4,)
    assert (await talk.eventually("Tread", 1, 0, 99))[1] == (b"more",)
    assert (await talk.eventually("Tunlinkat", 0, "watched", 0))[0] == "Runlinkat"
    assert (await talk.eventually("Tremove", 1))[0] == "Rremove"
    assert file.removed == 2
    assert not talk.session.jobs


async def test_stats_that_take_their_time_in_the_older_dialects(file: Watched) -> None:
    talk = Talk("u", root=Dir("/", [file]))
    file.waits = {"stat"}
    talk.walk("watched")
    name, (raw,) = await talk.eventually("Tstat", 1)
    assert name == "Rstat"
    assert b"watched" in raw
    # A directory with such files, and with one that cannot be asked at all.
    talk.open("", 2)
    name, (data,) = await talk.eventually("Tread", 2, 0, 1000)
    assert data == raw
    file.raises["stat"] = CloudError("unreachable", "it is gone")
    for waits in ({"stat"}, set()):
        file.waits = waits
        talk.open("", 3)
        assert b"watched" in (await talk.eventually("Tread", 3, 0, 1000))[1][0]
        talk.ask("Tclunk", 3)


@pytest.mark.parametrize("key", ["9", "u", "L"])
def test_an_exception_is_eio_for_one_request(
    key: str, file: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    talk = Talk(key, root=Dir("/", [file]))
    file.raises["read"] = ZeroDivisionError("our own mistake")
    talk.open("watched")
    with caplog.at_level(logging.ERROR):
        assert refused(talk.ask("Tread", 1, 0, 10)) in (errno.EIO, "Input/output error")
    assert "our own mistake" in caplog.text
    assert "ZeroDivisionError" in talk.errors.of("root")[-1][1]
    file.raises.clear()
    assert talk.ask("Tread", 1, 0, 10) == ("Rread", (b"data",))


async def test_an_exception_in_a_wait_is_eio_too(
    talk: Talk, file: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    file.waits = {"read"}
    file.raises["read"] = RuntimeError("our own mistake")
    talk.open("watched")
    assert refused(await talk.eventually("Tread", 1, 0, 10)) == errno.EIO
    assert "our own mistake" in caplog.text


@pytest.mark.parametrize("message", ["Tattach", "Tremove", "Tclunk"])
def test_a_name_space_goes_even_if_our_own_code_failed(
    talk: Talk, file: Watched, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("our own mistake")

    talk.open("watched")
    if message == "Tattach":
        monkeypatch.setattr(Attach, "find", broken)
        assert refused(talk.attach(7, "watched")) == errno.EIO
        assert not talk.session.coming
        assert talk.closed == [talk.spaces[1]]
        return
    monkeypatch.setattr(Attach, "remove", broken)
    file.raises["close"] = RuntimeError("our own mistake")
    talk.ask("Tclunk", 0)
    got = talk.ask(message, 1)
    assert refused(got) == errno.EIO
    assert talk.closed == talk.spaces


async def test_why_an_attach_failed_is_told() -> None:
    talk = Talk()
    assert refused(await talk.eventually("Tattach", 7, NOFID, "x", "slow/" + "x" * 300, 0)) == 36
    assert "/slow/xxx" in talk.errors.of("root")[-1][1]


def test_the_reasons_are_kept_with_their_paths() -> None:
    talk = Talk(who=GUEST)
    talk.walk("secret")
    talk.ask("Tlopen", 1, 0)
    assert talk.errors.of("guest")[-1][1].startswith("/secret: guest may not read it")
    talk.ask("Twalk", 0, 2, ["private"])
    talk.ask("Twalk", 2, 3, ["inside"])
    assert talk.errors.of("guest")[-1][1].startswith("/private/inside: guest may not search")


def test_at_most_so_many_fids(talk: Talk) -> None:
    for fid in range(1, MAX_FIDS):
        assert talk.ask("Twalk", 0, fid, [])[0] == "Rwalk"
    assert refused(talk.ask("Twalk", 0, MAX_FIDS, [])) == errno.EMFILE
    assert refused(talk.attach(MAX_FIDS)) == errno.EMFILE
    talk.ask("Tclunk", 7)
    assert talk.ask("Twalk", 0, MAX_FIDS, [])[0] == "Rwalk"
    assert len(talk.session.fids) == MAX_FIDS


async def test_at_most_so_many_requests_wait() -> None:
    talk = Talk()
    talk.open("never")
    for tag in range(MAX_TAGS):
        talk.blocks("Tread", 1, 0, 10, tag=tag)
    assert refused(talk.ask("Tread", 1, 0, 10, tag=MAX_TAGS)) == errno.EAGAIN
    assert talk.ask("Tgetattr", 1, 0, tag=MAX_TAGS)[0] == "Rgetattr"
    assert talk.ask("Tflush", 9, tag=MAX_TAGS) == ("Rflush", ())
    talk.blocks("Tread", 1, 0, 10, tag=9)
    # A walk that cannot wait leaves nothing promised.
    assert refused(talk.ask("Twalk", 0, 2, ["slow", "x"], tag=MAX_TAGS)) == errno.EAGAIN
    assert not talk.session.coming


async def test_fids_that_are_about_to_be_count_as_well() -> None:
    talk = Talk()
    for fid in range(1, MAX_FIDS - 1):
        talk.ask("Twalk", 0, fid, [])
    job = talk.blocks("Twalk", 0, MAX_FIDS, ["slow", "x"], tag=3)
    assert refused(talk.ask("Twalk", 0, MAX_FIDS + 1, [])) == errno.EMFILE
    talk.end(job, error=CloudError("timeout", "nobody there"))
    assert talk.ask("Twalk", 0, MAX_FIDS + 1, [])[0] == "Rwalk"


@pytest.mark.parametrize("size", [0, 6, 65537, 0xFFFFFFFF, int.from_bytes(b"GET ", "little")])
def test_a_frame_of_an_impossible_size_ends_the_connection(talk: Talk, size: int) -> None:
    talk.session.feed(size.to_bytes(4, "little") + b"/ HTTP/1.1")
    with pytest.raises(BadMessage):
        talk.session.step()


def test_before_a_version_frames_are_small() -> None:
    talk = Talk(attach=False)
    talk.session.feed((8193).to_bytes(4, "little") + b"\x64\xff\xff")
    with pytest.raises(BadMessage):
        talk.session.step()


@pytest.mark.parametrize("number", [0, 6, 13, 101, 106, 255])
def test_a_frame_that_is_no_request_is_refused(talk: Talk, number: int) -> None:
    frame = (7).to_bytes(4, "little") + bytes([number, 1, 0])
    assert [(name, tag) for name, tag, _ in talk.raw(frame)] == [("Rlerror", 1)]
    assert talk.ask("Tgetattr", 0, 0)[0] == "Rgetattr"


def test_a_frame_with_a_wrong_body_is_refused(talk: Talk) -> None:
    frame = talk.frame("Tgetattr", 0, 0)
    for broken in (frame[:-1], frame + b"\0"):
        broken = len(broken).to_bytes(4, "little") + broken[4:]
        assert refused(talk.raw(broken)[0][::2]) == errno.EPROTO
    walk = talk.frame("Twalk", 0, 1, ["name"]).replace(b"name", b"n\xffme")
    assert refused(talk.raw(walk)[0][::2]) == errno.EPROTO
    assert talk.ask("Tgetattr", 0, 0)[0] == "Rgetattr"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11])
def test_frames_in_pieces(talk: Talk, size: int) -> None:
    talk.open("watched", mode=2)
    data = b"".join(
        [
            talk.frame("Tgetattr", 0, 0, tag=1),
            talk.frame("Twrite", 1, 0, b"x" * 50, tag=2),
            talk.frame("Tread", 1, 0, 3, tag=3),
        ]
    )
    replies = []
    for at in range(0, len(data), size):
        replies += talk.raw(data[at : at + size])
        assert talk.session.partial == (at + size < len(data)) or not talk.session.partial
    assert [(name, tag) for name, tag, _ in replies] == [
        ("Rgetattr", 1),
        ("Rwrite", 2),
        ("Rread", 3),
    ]
    assert not talk.session.partial


def test_a_large_frame_in_pieces_is_joined_once(talk: Talk, file: Watched) -> None:
    talk.open("watched", mode=2)
    frame = talk.frame("Twrite", 1, 0, b"y" * 60000)
    talk.session.feed(frame[:10])
    talk.session.step()
    assert talk.session.partial
    talk.session.feed(frame[10:20])
    for at in range(20, len(frame), 1000):
        talk.session.feed(frame[at : at + 1000])
        assert not talk.session.step()
    assert talk.replies()[0][0] == "Rwrite"
    assert file.data == b"y" * 60000


def test_a_turn_is_bounded_in_frames(talk: Talk) -> None:
    talk.session.feed(talk.frame("Tgetattr", 0, 0) * (TURN_FRAMES + 5))
    assert talk.session.step()
    assert len(talk.session.take()) == TURN_FRAMES
    assert not talk.session.step()
    assert len(talk.session.take()) == 5
    assert talk.session.answered == 2 + TURN_FRAMES + 5


def test_a_turn_is_bounded_in_bytes() -> None:
    talk = Talk(msize=1 << 20)
    talk.open("big")
    talk.session.feed(talk.frame("Tread", 1, 0, 200_000) * 10)
    assert talk.session.step()
    assert TURN_BYTES <= talk.session.out_size <= TURN_BYTES + 200_011
    # What comes meanwhile stands behind what is left.
    talk.session.feed(talk.frame("Tclunk", 1, tag=9))
    replies = talk.replies()
    while talk.session.step():
        replies += talk.replies()
    replies += talk.replies()
    assert [name for name, _, _ in replies] == ["Rread"] * 10 + ["Rclunk"]


def test_much_data_is_sent_from_where_it_lies() -> None:
    talk = Talk(msize=1 << 20)
    talk.open("big")
    talk.session.feed(talk.frame("Tread", 1, 0, SEPARATE))
    talk.session.step()
    assert [len(part) for part in talk.session.out] == [11, SEPARATE]
    talk.session.take()
    talk.session.feed(talk.frame("Tread", 1, 0, SEPARATE - 1))
    talk.session.step()
    assert [len(part) for part in talk.session.out] == [11 + SEPARATE - 1]


def test_reads_keep_to_the_size_agreed_on() -> None:
    talk = Talk(msize=8192)
    talk.open("big")
    assert len(talk.ask("Tread", 1, 0, 0xFFFFFFFF)[1][0]) == 8192 - 11
    talk.open("many", 2)
    frame = talk.frame("Treaddir", 2, 0, 0xFFFFFFFF)
    talk.session.feed(frame)
    talk.session.step()
    assert sum(map(len, talk.session.take())) <= 8192


@pytest.mark.parametrize("key", ["9", "u", "L"])
def test_a_directory_is_packed_once_and_read_whole(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    stat = Leaf.stat

    def counted(self: Leaf) -> Stat:
        nonlocal asked
        asked += 1
        return stat(self)

    monkeypatch.setattr(Leaf, "stat", counted)
    talk = Talk(key, msize=8192)
    talk.open("many")
    names: list[str] = []
    offset = 0
    while True:
        if key == "L":
            from cloudfs.wire.codec import decode_dirents

            (data,) = talk.ask("Treaddir", 1, offset, 1000)[1]
            entries = decode_dirents(data)
            names += [name for _, _, _, name in entries]
            offset = entries[-1][1] if entries else offset
        else:
            from cloudfs.wire.codec import decode_stats

            (data,) = talk.ask("Tread", 1, offset, 1000)[1]
            names += [fields[7] for fields in decode_stats(key, data)]
            offset += len(data)
        if not data:
            break
    assert names == [f"f{i:04}" for i in range(1000)]
    assert asked == (0 if key == "L" else 1000)


def test_entries_that_many_opens_share_are_packed_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudfs.tree.api import DirHandle
    from cloudfs.wire import pack

    made: list[Entries] = []
    listing = pack._dirents

    def counted(entries: Entries) -> list[bytes]:
        made.append(entries)
        return listing(entries)

    monkeypatch.setattr(pack, "_dirents", counted)
    talk = Talk()
    directory: Node = talk.root.children["many"]  # type: ignore[attr-defined]
    shared = Entries(directory.children)  # type: ignore[attr-defined]
    monkeypatch.setattr(type(directory), "open", lambda *_: DirHandle(shared))
    for fid in (1, 2):
        talk.open("many", fid)
        talk.ask("Treaddir", fid, 0, 1000)
    assert made == [shared]


def test_each_attach_has_a_name_space_of_its_own(talk: Talk) -> None:
    assert talk.attach(1)[0] == "Rattach"
    assert talk.attach(2)[0] == "Rattach"
    assert len(talk.spaces) == 3
    assert len(set(map(id, talk.spaces))) == 3
    talk.ask("Tclunk", 1)
    assert talk.closed == [talk.spaces[1]]
    talk.session.close()
    assert set(talk.closed) == set(talk.spaces)


def test_a_failing_closed_callback_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    talk = Talk()

    def closed(space: object) -> None:
        raise RuntimeError("our own mistake")

    talk.session._closed = closed
    talk.session.close()
    assert "our own mistake" in caplog.text
    assert not talk.session.fids


def test_errors_in_the_words_of_each_dialect() -> None:
    for key, wanted in (
        ("9", ("Rerror", ("file not found",))),
        ("u", ("Rerror", ("file not found", errno.ENOENT))),
        ("L", ("Rlerror", (errno.ENOENT,))),
    ):
        assert Talk(key).ask("Twalk", 0, 1, ["nothing"]) == wanted


def test_a_wstat_changes_what_it_names(file: Watched) -> None:
    from cloudfs.wire.codec import stat_codec

    talk = Talk("9", root=Dir("/", [file], 0o777))
    decode, encode = stat_codec("9")
    talk.walk("watched")
    (raw,) = talk.ask("Tstat", 1)[1]
    fields = list(decode(raw, 2, len(raw)))
    big = 0xFFFFFFFF

    def wstat(*fields: Any) -> tuple[str, tuple[Any, ...]]:
        body = encode(*fields)
        return talk.ask("Twstat", 1, len(body).to_bytes(2, "little") + body)

    same = [0xFFFF, big, (0xFF, big, (1 << 64) - 1), big, big, big, (1 << 64) - 1, "", "", "", ""]
    assert wstat(*same)[0] == "Rwstat"
    assert wstat(*fields[:6], (1 << 64) - 1, *fields[7:])[0] == "Rwstat"  # all as it is
    assert wstat(*same[:7], "renamed", *same[8:])[0] == "Rwstat"
    assert file.name == "renamed"
    (raw,) = talk.ask("Tstat", 1)[1]
    assert decode(raw, 2, len(raw))[7] == "renamed"
    assert refused(wstat(1, *same[1:])) == "Operation not permitted"
    assert refused(wstat(*same[:3], 0x80000000, *same[4:])) == "Operation not permitted"
    assert refused(talk.ask("Twstat", 1, b"\0\0junk")) == "Protocol error"
    assert refused(talk.ask("Twstat", 1, b"\1")) == "Protocol error"


def test_users_go_by_number_where_the_dialect_wants_it(file: Watched) -> None:
    file.uid = file.gid = "root"
    talk = Talk(root=Dir("/", [file]))
    talk.walk("watched")
    values = talk.ask("Tgetattr", 1, 0)[1]
    assert values[3:5] == (0, 0)
    file.uid, file.gid = "#77", "no such group"
    assert talk.ask("Tgetattr", 1, 0)[1][3:5] == (77, 65534)


def test_numbers_that_no_fid_has() -> None:
    talk = Talk()
    assert refused(talk.ask("Tclunk", NOFID)) == errno.EBADF
    for name in codec("L").number:
        if name.startswith("T") and codec("L").fields[name][:1] in (("fid",), ("dfid",)):
            fields = [
                "x" if field in ("name", "client_id", "symtgt") else [] if field == "wname" else 0
                for field in codec("L").fields[name][1:]
            ]
            if name in ("Tattach", "Twrite"):
                continue
            assert refused(talk.ask(name, 99, *fields)) == errno.EBADF, name


def test_who_is_another_now_may_not_go_on_unless_it_is_the_nodes_owner() -> None:
    now = [Who("ana", 7)]
    talk = Talk(who=GUEST, again=lambda: now[0])
    assert talk.session.outlived() == ""
    now[0] = Who("none", 7)
    assert talk.session.outlived() == "its user is another now"
    now[0] = Who("bob", 7, boss=True)
    assert talk.session.outlived() == ""
    talk = Talk(who=GUEST, again=lambda: Who("none", 7))
    talk.session._again = lambda: now[0]  # who was nobody has lost nothing
    now[0] = Who("ana", 7)
    assert talk.session.outlived() == ""
