"""The kinds of files that tables are made of."""

import os
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.kernel.bell import Bell
from cloudfs.kernel.bell import Log as KernelLog
from cloudfs.tree.api import OREAD, OWRITE, PLAIN, Cues, DirHandle, Wait, Who
from cloudfs.tree.files import (
    Blocking,
    Clone,
    Ctl,
    Log,
    Pipe,
    Stream,
    Value,
)
from cloudfs.tree.handles import Lines
from cloudfs.tree.space import Space, settle
from cloudfs.tree.table import LiveDir, TableDir

ANN = Who("ann", 1001)
FOLLOW = Cues(follow=True)


def place(*rows, subject=None, more=()):
    return TableDir("d", rows, subject, 1 << 60, "ann", lambda: 7.0, more, "About this.\n")


def opened(row, subject=None, mode=OREAD, cues=PLAIN):
    at = Space(place(row)).attach(ANN)
    return row.open(subject, mode, at, cues)


def greet(subject, at):
    """Says hello."""
    return f"hello {subject} from {at.who.user}\n"


def test_a_value_is_made_at_open():
    count = iter(range(9))
    row = Value("n", 0o444, lambda subject, at: f"{next(count)}{'x' * 10}\n")
    handle = opened(row)
    assert handle.read(0, 3) + handle.read(3, 99) == b"0xxxxxxxxxx\n"
    assert opened(row).read(0, 1) == b"1"


def test_a_directory_is_its_table():
    tree = place(Value("hello", 0o444, greet), subject="world")
    at = Space(tree).attach(ANN)
    handle = at.open(at.root(), OREAD)
    assert isinstance(handle, DirHandle)
    assert list(handle.entries.nodes) == ["hello", "help"]
    hello = at.find(("hello",))
    assert at.open(hello, OREAD).read(0, 99) == b"hello world from ann\n"
    assert at.find(("hello",)).node is hello.node
    help = at.open(at.find(("help",)), OREAD).read(0, 999).decode()
    assert help.startswith("About this.")
    assert "hello  r--r--r--  Says hello." in help
    with pytest.raises(CloudError):
        at.find(("nope",))


def test_qids_differ_and_stay():
    tree = place(Value("a", 0o444, greet), Value("b", 0o444, greet))
    at = Space(tree).attach(ANN)
    qids = {at.stat(at.find(path)).qid for path in ((), ("a",), ("b",), ("help",))}
    assert len(qids) == 4


def test_hidden_nodes_are_walked_and_not_listed():
    secret = TableDir("h", (), None, 5 << 8, "ann", lambda: 0.0)
    tree = TableDir("d", (), None, 1 << 60, "ann", lambda: 0.0, hidden=[secret])
    at = Space(tree).attach(ANN)
    assert at.find(("h",)).node is secret
    assert list(at.open(at.root(), OREAD).entries.nodes) == ["help"]


def test_live_directories_list_again_only_after_a_change():
    children = {"a": place()}
    version = [0]
    tree = LiveDir(
        "d",
        (),
        None,
        1 << 60,
        "ann",
        lambda: 0.0,
        find=lambda name, at: children[name],
        every=lambda: dict(children),
        version=lambda: version[0],
    )
    at = Space(tree).attach(ANN)
    first = at.open(at.root(), OREAD).entries
    assert at.open(at.root(), OREAD).entries is first
    children["b"] = place()
    version[0] += 1
    assert list(at.open(at.root(), OREAD).entries.nodes) == ["help", "a", "b"]


# --- lines


def act(done, line):
    if "bad" in line:
        raise CloudError("bad", f"cannot do {line!r}", "do not")
    if "slow" in line:

        async def run():
            await trio.sleep(1)
            done.append(line)

        return Wait(run)
    if line:
        done.append(line)
    return None


async def test_a_ctl_write_does_line_after_line(autojump_clock):
    done = []
    handle = opened(
        Ctl("ctl", 0o666, greet, lambda subject, line, at: act(done, line)), "x", OWRITE
    )
    assert await settle(handle.write(0, b"one\nslow two\nthree\n")) == 19
    assert done == ["one", "slow two", "three"]


async def test_a_bad_line_stops_and_says_which():
    done = []
    handle = Lines("", partial(act, done))
    with pytest.raises(CloudError, match="line 2 .*not done.*: cannot do 'bad'"):
        handle.write(0, b"one\nbad\nthree\n")
    assert done == ["one"]
    with pytest.raises(CloudError) as caught:
        handle.write(0, b"bad")
    assert caught.value.why == "cannot do 'bad'"


@given(st.lists(st.text("abc ", min_size=1, max_size=600), min_size=1, max_size=60), st.data())
def test_lines_cut_by_the_client_are_put_together(lines, data):
    lines = [line for line in lines if line]
    text = "".join(f"{line}\n" for line in lines).encode()
    size = data.draw(st.integers(4096, 9000))
    done = []
    handle = Lines("", partial(act, done))
    for start in range(0, len(text), size):
        piece = text[start : start + size]
        assert handle.write(start, piece) == len(piece)
    handle.close()
    # A last piece under 4096 bytes is taken as whole lines; all others wait for their end.
    assert done == lines


def test_a_line_without_newline_counts():
    done = []
    handle = Lines("", partial(act, done))
    handle.write(0, b"kill")
    assert done == ["kill"]


@pytest.mark.parametrize("data", [b"a\0b\n", b"\xff\n", b"x" * 70000 + b"\n"])
def test_lines_that_cannot_be(data):
    done = []
    with pytest.raises(CloudError):
        Lines("", partial(act, done)).write(0, data)
    assert done == []


def test_an_endless_line_is_refused_before_it_fills_memory():
    handle = Lines("", partial(act, []))
    with pytest.raises(CloudError, match="at most"):
        for _ in range(64):
            handle.write(0, b"x" * 8000)
    assert handle.rest == b""


# --- clone, blocking, logs


def test_clone_makes_at_the_first_read_only():
    made = []
    row = Clone("clone", 0o444, lambda subject, at: made.append(1) or "id7")
    handle = opened(row)
    assert made == []
    assert handle.read(0, 2) + handle.read(2, 9) + handle.read(4, 9) == b"id7\n"
    assert made == [1]


async def test_blocking_blocks_only_under_follow(autojump_clock):
    bell, state = Bell(), {"text": ""}

    async def wait(subject):
        while not state["text"]:
            await bell.wait()

    row = Blocking("wait", 0o444, lambda subject, at: state["text"], wait)
    assert opened(row).read(0, 9) == b""
    seen = []

    async def reader():
        handle = opened(row, cues=FOLLOW)
        seen.append(await settle(handle.read(0, 99)))
        seen.append(await settle(handle.read(4, 99)))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(reader)
        await trio.sleep(5)
        assert seen == []
        state["text"] = "end\n"
        bell.ring()
    assert sorted(seen) == [b"", b"", b"", b"end\n", b"end\n", b"end\n"]


async def test_a_log_is_followed_without_loss_until_it_is_over(autojump_clock):
    log, over = KernelLog(8, clock=lambda: 1.0), trio.Event()
    row = Log("events", 0o444, lambda subject: log, lambda subject: over.wait())
    log.add("one")
    assert opened(row).read(0, 99) == b"time=1 event=one\n"
    handle, seen = opened(row, cues=FOLLOW), []

    async def reader():
        while data := await settle(handle.read(0, 10)):
            seen.append(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        for word in ("two", "three"):
            await trio.sleep(1)
            log.add(word)
        await trio.sleep(1)
        over.set()
    assert b"".join(seen) == b"time=1 event=one\ntime=1 event=two\ntime=1 event=three\n"


def test_a_log_keeps_its_last_lines():
    log = KernelLog(3, clock=lambda: 0.0)
    for number in range(5):
        log.add("n", v=number)
    text, upto = log.since(0)
    assert [line[-1] for line in text.splitlines()] == ["2", "3", "4"]
    assert upto == 5
    assert log.since(4)[0].count("\n") == 1


# --- streams


@pytest.fixture
def stream(tmp_path):
    state = {"bell": Bell(), "over": False, "dropped": 0}

    async def grown(subject, name, size):
        if state["over"]:
            return False
        await state["bell"].wait()
        return True

    row = Stream(
        "stdout", 0o444, lambda subject: tmp_path / "out", lambda s, name: state["dropped"], grown
    )
    state.update(row=row, path=tmp_path / "out")
    return state


def test_a_stream_that_has_not_begun_is_empty(stream):
    assert opened(stream["row"]).read(0, 10) == b""
    assert stream["row"].length(None) == 0


def test_a_stream_is_read_at_any_offset_with_its_true_size(stream):
    stream["path"].write_bytes(b"0123456789")
    handle = opened(stream["row"])
    assert (handle.read(3, 4), handle.read(10, 4)) == (b"3456", b"")
    assert stream["row"].length(None) == 10
    handle.close()


@pytest.mark.parametrize("offset", [(1 << 63) - 2, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
async def test_a_stream_ends_long_before_the_offsets_that_9p_has(stream, autojump_clock, offset):
    stream["path"].write_bytes(b"text")
    stream["over"] = True
    for cues in (PLAIN, FOLLOW):
        handle = opened(stream["row"], cues=cues)
        assert await settle(handle.read(offset, 1 << 16)) == b""
        handle.close()


async def test_a_stream_is_followed_from_before_its_begin_to_its_end(stream, autojump_clock):
    handle, seen = opened(stream["row"], cues=FOLLOW), b""

    async def reader():
        nonlocal seen
        while data := await settle(handle.read(len(seen), 4)):
            seen += data

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        for piece in (b"first ", b"second ", b"third"):
            await trio.sleep(1)
            with open(stream["path"], "ab") as file:
                file.write(piece)
            stream["bell"].ring()
        await trio.sleep(1)
        with open(stream["path"], "ab") as file:
            file.write(b" last")
        stream["over"] = True
        stream["bell"].ring()
    assert seen == b"first second third last"
    handle.close()


def test_dropped_output_is_an_error_and_not_zeros(stream):
    with open(stream["path"], "wb") as file:
        os.truncate(file.fileno(), 5000)
        os.pwrite(file.fileno(), b"kept", 4996)
    stream["dropped"] = 4096
    handle = opened(stream["row"])
    with pytest.raises(CloudError, match="no longer kept") as caught:
        handle.read(0, 100)
    assert "tail -c +4097" in caught.value.fix
    assert handle.read(4096, 100) == b"\0" * 100  # the program's own zeros
    assert handle.read(4996, 100) == b"kept"
    handle.close()


def test_pipes_take_and_never_give():
    taken = []
    row = Pipe("stdin", 0o222, lambda subject, data: taken.append(data) or len(data))
    handle = opened(row, mode=OWRITE)
    assert handle.write(0, memoryview(b"abc")) == 3
    assert (taken, handle.read(0, 9)) == ([b"abc"], b"")
