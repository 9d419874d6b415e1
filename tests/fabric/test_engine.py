"""What every engine promises (fabric/api.py), over the bus and over real QUIC."""

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Change
from tests.fabric.conftest import soon, until


async def see_each_other(*engines):
    names = {engine.node for engine in engines}
    await until(lambda: all(engine.members() == names for engine in engines))


async def served(engine, selector, *nodes):
    """Wait until these nodes answer: what is served is known to others a moment later."""
    async with soon():
        while not (await engine.ask(selector, timeout=2, want=frozenset(nodes))).whole:
            await trio.sleep(0.02)


async def test_members_come_and_go(start):
    one, two = await start("n1", "n2")
    await see_each_other(one, two)
    with one.watch() as watch:
        async with soon():
            assert await anext(watch) == Change("n2", True)  # who is there already
            two.scope.cancel()
            assert await anext(watch) == Change("n2", False)
    assert one.members() == {"n1"}


async def test_published_values_are_kept_for_those_who_come_later(start):
    one, two = await start("n1", "n2")
    await see_each_other(one, two)
    one.publish("node/n1", b"first")
    with two.subscribe("node/*") as values:
        async with soon():
            sample = await anext(values)
    assert (sample.key, sample.value, sample.stamp.node) == ("node/n1", b"first", "n1")
    one.publish("node/n1", b"second")
    one.publish("other/n1", b"elsewhere")
    three = await start("n3")
    with three.subscribe("node/**") as values:
        async with soon():
            assert (await anext(values)).value == b"second"
    with two.subscribe("**") as values:
        async with soon():
            assert {(await anext(values)).value, (await anext(values)).value} == {
                b"second",
                b"elsewhere",
            }


async def test_a_withdrawn_value_is_gone_for_all(start):
    one, two = await start("n1", "n2")
    await see_each_other(one, two)
    with two.subscribe("**") as values:
        one.publish("a", b"1")
        async with soon():
            assert not (await anext(values)).gone
            one.withdraw("a")
            sample = await anext(values)
    assert (sample.key, sample.gone) == ("a", True)
    one.withdraw("a")  # once more is nothing
    one.publish("b", b"2")
    with two.subscribe("**") as values:
        async with soon():
            assert (await anext(values)).key == "b"


async def test_what_is_told_is_told_once_in_order(start):
    one, two = await start("n1", "n2")
    await see_each_other(one, two)
    with two.subscribe("event/**") as early:
        for number in range(100):
            one.tell("event/n1", b"%d" % number)
        async with soon():
            heard = [int((await anext(early)).value) for _ in range(100)]
        assert heard == list(range(100))
    with two.subscribe("event/**") as late, trio.move_on_after(0.5):
        raise AssertionError(await anext(late))


async def test_nobody_hears_itself(start):
    one, two = await start("n1", "n2")
    await see_each_other(one, two)
    with one.subscribe("**") as values:
        one.publish("a", b"1")
        one.tell("b", b"2")
        two.publish("c", b"3")
        async with soon():
            assert (await anext(values)).key == "c"


async def test_a_slow_reader_gets_the_newest_of_each_key(start):
    one, two = await start("n1", "n2")
    await see_each_other(one, two)
    with two.subscribe("**") as values:
        for number in range(1000):
            one.publish("a", b"%d" % number)
        one.publish("b", b"last")
        heard = []
        async with soon():
            while not heard or heard[-1].key != "b":
                heard.append(await anext(values))
    assert heard[-2].value == b"999"


async def test_questions_and_answers(start):
    one, two, three = await start("n1", "n2", "n3")
    await see_each_other(one, two, three)

    def echo(name):
        async def handler(key, payload):
            if payload == b"fail":
                raise CloudError("bad", "no")
            return [(f"{key}", payload + name)] if payload != b"none" else []

        return handler

    closers = [engine.serve("q/*", echo(engine.node.encode())) for engine in (two, three)]
    await served(one, "q/x", "n2", "n3")
    answer = await one.ask("q/x", b"hello ", timeout=10)
    assert answer.whole
    assert {(r.node, r.key, r.value) for r in answer.replies} == {
        ("n2", "q/x", b"hello n2"),
        ("n3", "q/x", b"hello n3"),
    }
    answer = await one.ask("q/x", b"", timeout=10, want=1)
    assert answer.whole
    assert len(answer.replies) >= 1
    answer = await one.ask("q/x", b"none", timeout=10, want=frozenset({"n2", "n3"}))
    assert answer.whole
    assert answer.replies == []
    answer = await one.ask("q/x", b"fail", timeout=0.5)
    assert not answer.whole
    assert answer.replies == []
    answer = await one.ask("nothing", b"", timeout=0.5)
    assert not answer.whole
    closers[0]()
    answer = await one.ask("q/x", b"", timeout=0.5)
    assert not answer.whole
    assert [r.node for r in answer.replies] == ["n3"]


async def test_a_large_answer_comes_whole(start):
    one, two = await start("n1", "n2")
    await see_each_other(one, two)

    async def much(key, payload):
        return [("much", bytes(3_000_000))]

    two.serve("much", much)
    await served(one, "much", "n2")
    answer = await one.ask("much", timeout=15)
    assert [len(r.value) for r in answer.replies] == [3_000_000]


async def test_zones_do_not_mix(start, kind):
    one = await start("n1", zone="paris")
    kind.seed = ""
    two = await start("n2", zone="")
    three = await start("n3", zone="")
    await see_each_other(two, three)
    one.publish("a", b"1")
    two.publish("a", b"2")
    with three.subscribe("**") as values:
        async with soon():
            assert (await anext(values)).value == b"2"
    assert one.members() == {"n1"}


async def test_stamps_only_grow(start):
    one, two = await start("n1", "n2")
    await see_each_other(one, two)
    with two.subscribe("**") as values:
        sent = one.publish("a", b"1")
        async with soon():
            heard = (await anext(values)).stamp
    assert heard == sent
    assert two.now() > sent
    assert two.now() < two.now()


async def test_what_is_no_key_or_too_big_is_refused(start):
    one = await start("n1")
    for key in ("", "a//b", "a/*", "a\nb", "x" * 256):
        with pytest.raises(CloudError, match="no key"):
            one.publish(key, b"")
    with pytest.raises(CloudError, match="at most"):
        one.publish("a", bytes((1 << 20) + 1))
