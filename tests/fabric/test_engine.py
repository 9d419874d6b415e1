"""What every engine does: the same tests over the in-process bus and over real QUIC."""

import time

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.api import MAX_VALUE, Change
from cloudfs.fabric.stamp import Stamp
from tests.fabric.conftest import eventually, silent, take


def answering(name, value=b"", wait=0.0):
    async def handler(key, payload):
        await trio.sleep(wait)
        return [(name, value + payload)]

    return handler


# --- members ---------------------------------------------------------------------------------


async def test_members_come_and_go(zone):
    one = await zone.up("n1")
    assert one.members() == {"n1"}
    with one.watch() as changes:
        assert await take(changes, 1) == [Change("n1", True)]
        await zone.up("n2")
        assert await take(changes, 1) == [Change("n2", True)]
        with one.watch() as later:
            assert {c.node for c in await take(later, 2)} == {"n1", "n2"}
        await zone.down("n2")
        assert await take(changes, 1) == [Change("n2", False)]
        assert one.members() == {"n1"}
        await zone.up("n2")
        assert await take(changes, 1) == [Change("n2", True)]


async def test_three_all_see_each_other(zone):
    engines = await zone.up("n1", "n2", "n3")
    assert {engine.members() for engine in engines} == {frozenset(["n1", "n2", "n3"])}


# --- publish and subscribe -------------------------------------------------------------------


async def test_what_is_published_is_heard_by_all(zone):
    one, two = await zone.up("n1", "n2")
    with one.subscribe("nodes/*") as mine, two.subscribe("nodes/**") as theirs:
        one.publish("nodes/n1", b"cpus=2")
        for feed in (mine, theirs):
            (sample,) = await take(feed, 1)
            assert (sample.key, sample.value, sample.gone) == ("nodes/n1", b"cpus=2", False)
            assert sample.stamp.node == "n1"
            assert abs(sample.stamp.seconds - time.time()) < 60
        one.publish("other", b"")
        await silent(theirs)


async def test_who_comes_late_gets_the_latest(zone):
    one = await zone.up("n1")
    one.publish("a/x", b"1")
    one.publish("a/x", b"2")
    one.publish("a/y", b"3")
    one.publish("a/z", b"4")
    one.withdraw("a/z")
    two = await zone.up("n2")
    with two.subscribe("a/*") as feed:
        got = {sample.key: sample.value for sample in await take(feed, 2)}
        assert got == {"a/x": b"2", "a/y": b"3"}
        await silent(feed)
    with two.subscribe("a/x") as feed:  # and a second subscription of the same node
        assert (await take(feed, 1))[0].value == b"2"


async def test_a_subscriber_hears_publishers_that_come_later(zone):
    one = await zone.up("n1")
    with one.subscribe("**") as feed:
        two = zone.make("n2")
        two.publish("before", b"run")  # it need not run yet
        await zone.start(two)
        assert (await take(feed, 1))[0].key == "before"
        two.publish("after", b"")
        assert (await take(feed, 1))[0].key == "after"


async def test_withdrawn_is_gone(zone):
    one, two = await zone.up("n1", "n2")
    with two.subscribe("k") as feed:
        one.publish("k", b"v")
        assert [s.gone for s in await take(feed, 1)] == [False]
        one.withdraw("k")
        one.withdraw("k")
        one.withdraw("never")
        (sample,) = await take(feed, 1)
        assert (sample.key, sample.value, sample.gone) == ("k", b"", True)
        one.publish("k", b"again")
        assert [s.value for s in await take(feed, 1)] == [b"again"]
        await silent(feed)


async def test_a_slow_reader_gets_the_latest_of_each_key(zone):
    one, two = await zone.up("n1", "n2")
    with two.subscribe("**") as feed, two.subscribe("ready") as ready:
        for turn in range(3000):
            one.publish(f"k{turn % 3}", str(turn).encode())
        one.publish("ready", b"")
        await take(ready, 1)
        got = {}
        with trio.fail_after(10):
            while got.get("k0") != b"2997" or got.get("k1") != b"2998" or got.get("k2") != b"2999":
                sample = await feed.__anext__()
                got[sample.key] = sample.value
        assert feed.lost == 0


async def test_what_is_told_comes_once_and_in_order(zone):
    one, two = await zone.up("n1", "n2")
    with two.subscribe("events/**") as feed, two.subscribe("events/n1") as also:
        await trio.sleep(0.3)  # until one has heard that two listens
        for turn in range(200):
            one.tell("events/n1", str(turn).encode())
        for each in (feed, also):
            assert [int(s.value) for s in await take(each, 200)] == list(range(200))
            assert each.lost == 0
        with two.subscribe("events/**") as later:
            await silent(later)
        await silent(feed)


async def test_what_is_told_too_fast_drops_the_oldest(zone):
    one = await zone.up("n1")
    with one.subscribe("e") as feed:
        for turn in range(5000):
            one.tell("e", str(turn).encode())
        first = int((await take(feed, 1))[0].value)
        assert first == feed.lost > 0
        rest = [int(s.value) for s in await take(feed, 4999 - first)]
        assert rest[-1] == 4999


async def test_a_closed_subscription_ends(zone, nursery):
    one = await zone.up("n1")
    feed = one.subscribe("**")
    nursery.start_soon(trio.sleep, 0)
    with trio.fail_after(5):
        async with trio.open_nursery() as inner:

            async def read():
                assert [sample async for sample in feed] == []

            inner.start_soon(read)
            await trio.sleep(0.05)
            feed.close()
            feed.close()
    one.publish("k", b"")
    assert [sample async for sample in feed] == []


async def test_large_and_binary_values(zone):
    one, two = await zone.up("n1", "n2")
    value = bytes(range(256)) * (MAX_VALUE // 256)
    with two.subscribe("b") as feed:
        one.publish("b", value)
        assert (await take(feed, 1))[0].value == value
        one.publish("b", b"")
        assert (await take(feed, 1))[0].value == b""
    with pytest.raises(CloudError) as caught:
        one.publish("b", value + b"x")
    assert caught.value.kind == "toobig"


async def test_a_restart_is_heard_though_nobody_saw_it_go(zone):
    one, two = await zone.up("n1", "n2")
    two.publish("k", b"old")
    with one.subscribe("k") as feed:
        assert (await take(feed, 1))[0].value == b"old"
        await zone.down("n2")
        two = zone.make("n2")
        two.publish("k", b"new")
        await zone.start(two)
        assert (await take(feed, 1))[0].value == b"new"


async def test_what_a_restart_forgot_goes_with_the_next_repair(zone, monkeypatch):
    monkeypatch.setattr("cloudfs.fabric.fetch.REPAIR", 0.5)
    one, two = await zone.up("n1", "n2")
    two.publish("a", b"1")
    two.publish("b", b"2")
    with one.subscribe("*") as feed:
        await take(feed, 2)
        await zone.down("n2")
        two = await zone.up("n2")
        two.publish("a", b"3")
        got = {s.key: (s.value, s.gone) for s in await take(feed, 2)}
        while got["a"] != (b"3", False):
            (sample,) = await take(feed, 1)
            got[sample.key] = sample.value, sample.gone
        assert got["b"] == (b"", True)


# --- questions -------------------------------------------------------------------------------


async def test_all_answer(zone):
    engines = await zone.up("n1", "n2", "n3")
    for engine in engines[:2]:
        engine.serve("free/*", answering(f"free/{engine.node}", b"2 "))
    answer = await engines[0].ask("free/*", b"cpus", timeout=5)
    assert answer.whole
    assert sorted((r.key, r.value, r.node) for r in answer.replies) == [
        ("free/n1", b"2 cpus", "n1"),
        ("free/n2", b"2 cpus", "n2"),
    ]
    assert answer.nodes == {"n1", "n2", "n3"}  # the third only says that it serves no such thing


async def test_one_is_asked(zone):
    engines = await zone.up("n1", "n2", "n3")
    for engine in engines:
        engine.serve("name", answering(engine.node))
    for engine in engines:
        answer = await engine.ask("name", timeout=5, want=frozenset(["n2"]))
        assert answer.whole
        assert [(r.key, r.node) for r in answer.replies] == [("n2", "n2")]


async def test_answers_of_others_are_timed(zone):
    one, two = await zone.up("n1", "n2")
    two.serve("slow", answering("n2", wait=0.3))
    told = []
    one.time(lambda node, seconds: told.append((node, seconds)))
    await one.ask("slow", timeout=10)
    assert {node for node, _ in told} <= {"n1", "n2"}
    times = [seconds for node, seconds in told if node == "n2"]
    assert len(times) >= 1
    assert 0.3 <= min(times) < 10


async def test_some_are_enough(zone):
    engines = await zone.up("n1", "n2", "n3")
    for engine, wait in zip(engines, (0, 0, 60), strict=True):
        engine.serve("q", answering(engine.node, wait=wait))
    began = trio.current_time()
    answer = await engines[0].ask("q", timeout=20, want=2)
    assert trio.current_time() - began < 5
    assert answer.whole
    assert {r.node for r in answer.replies} == {"n1", "n2"}
    answer = await engines[0].ask("nothing", timeout=20, want=1)
    assert trio.current_time() - began < 10  # all have said that they do not serve it
    assert not answer.whole


async def test_part_of_an_answer_says_so(zone):
    one, two = await zone.up("n1", "n2")
    one.serve("q", answering("quick"))
    two.serve("q", answering("slow", wait=60))
    began = trio.current_time()
    answer = await one.ask("q", timeout=0.5)
    assert 0.4 < trio.current_time() - began < 5
    assert not answer.whole
    assert [r.key for r in answer.replies] == ["quick"]


async def test_who_is_not_there_does_not_answer(zone):
    one = await zone.up("n1")
    began = trio.current_time()
    answer = await one.ask("q", timeout=20, want=frozenset(["n7"]))
    assert trio.current_time() - began < 5
    assert (answer.replies, answer.whole) == ([], False)


async def test_what_fails_says_why(zone):
    one, two = await zone.up("n1", "n2")

    async def refuse(key, payload):
        raise CloudError("busy", "no room", "come back")

    async def broken(key, payload):
        raise ZeroDivisionError

    serving = two.serve("q", refuse)
    answer = await one.ask("q", timeout=5)
    assert not answer.whole
    assert answer.failed == {"n2": "no room; come back"}
    serving.close()
    serving.close()
    two.serve("q", broken)
    answer = await one.ask("q", timeout=5)
    assert set(answer.failed) == {"n2"}
    answer = await one.ask("other", timeout=5)
    assert answer.whole


async def test_a_leaver_is_not_waited_for(zone):
    one, two = await zone.up("n1", "n2")
    two.serve("q", answering("slow", wait=60))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(zone.down, "n2")
        began = trio.current_time()
        answer = await one.ask("q", timeout=30)
    assert trio.current_time() - began < 10
    assert not answer.whole


async def test_many_questions_at_a_time(zone):
    one, two = await zone.up("n1", "n2")
    two.serve("echo/*", answering("echo"))
    wrong = []

    async def ask(turn):
        answer = await one.ask(f"echo/{turn}", str(turn).encode(), timeout=10)
        if [r.value for r in answer.replies] != [str(turn).encode()]:
            wrong.append((turn, answer))

    async with trio.open_nursery() as nursery:
        for turn in range(200):
            nursery.start_soon(ask, turn)
    assert wrong == []


async def test_an_engine_that_does_not_run_cannot_ask(zone):
    engine = zone.make("n1")
    with pytest.raises(CloudError) as caught:
        await engine.ask("q", timeout=1)
    assert caught.value.kind == "unreachable"
    engine.publish("k", b"")
    engine.tell("k", b"")
    assert engine.members() == {"n1"}


# --- all of it -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "a/*", "**", "a?b", "a#", "$*", "@x", "a" * 2000, "\ud800"]
)
async def test_bad_keys(zone, key):
    engine = zone.make("n1")
    for use in (engine.publish, engine.tell):
        with pytest.raises(CloudError):
            use(key, b"")
    if "*" not in key or "$" in key:
        for wrong in (engine.subscribe, lambda k: engine.serve(k, answering(""))):
            with pytest.raises(CloudError):
                wrong(key)


@pytest.mark.parametrize("key", ["a b", "a=b", "köln/ü", "a\nb", "'", '"', "%2f", "a:b@c"])
async def test_odd_keys_that_are_good(zone, key):
    one, two = await zone.up("n1", "n2")
    with two.subscribe("odd/**") as feed:
        one.publish(f"odd/{key}", b"v")
        assert (await take(feed, 1))[0].key == f"odd/{key}"


async def test_stamps_are_above_what_was_heard(zone):
    one, two = await zone.up("n1", "n2")
    ahead = Stamp(time.time_ns() + 100 * 10**9, 0, "n1")
    one._clock.heard(ahead)
    with two.subscribe("k") as feed:
        one.publish("k", b"")
        (sample,) = await take(feed, 1)
    assert sample.stamp > ahead
    assert two.now() > sample.stamp
    stamps = [two.now() for _ in range(1000)]
    assert stamps == sorted(set(stamps))


async def test_an_engine_can_run_again(zone):
    engine = zone.make("n1")
    for _ in range(2):
        await zone.start(engine)
        assert (await engine.ask("x", timeout=5)).whole
        await zone.down("n1")


async def test_nothing_waits_for_ever(zone):
    """With a flood in both directions everything still ends."""
    one, two = await zone.up("n1", "n2")
    with one.subscribe("**") as here, two.subscribe("**") as there:
        for turn in range(2000):
            one.tell("t", bytes(1000))
            two.publish(f"p/{turn % 50}", bytes(1000))
        await eventually(lambda: len(here._queue) > 49)
        assert (await one.ask("q", timeout=10)).whole
        assert len(there._queue) <= 1024 + 51
