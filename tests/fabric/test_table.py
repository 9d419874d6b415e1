"""Tables over both engines; partitions over the bus, whose links can be cut."""

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.store import Store
from cloudfs.fabric.table import Table
from tests.fabric.conftest import eventually, take


async def tables(zone, nursery, *nodes, **how):
    """A table of one name at each of these nodes."""
    made = []
    for node in nodes:
        engine = zone.engines.get(node) or await zone.up(node)
        table = Table(engine, "objects", **how)
        await nursery.start(table.run)
        made.append(table)
    return made


def holding(table):
    """key: value, as this copy has it."""
    keys = table.keys()
    return {key: table.owned(key)[0].value for key in keys}


@pytest.fixture
async def inner(zone):
    """A nursery that ends before the engines do."""
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


@pytest.fixture
async def fast(monkeypatch):
    monkeypatch.setattr("cloudfs.fabric.repair.PERIOD", 0.2)
    monkeypatch.setattr("cloudfs.fabric.table.LOOK", 0.05)


async def test_what_is_put_is_everywhere(zone, inner):
    one, two = await tables(zone, inner, "n1", "n2")
    with two.watch() as changes:
        put = await one.put("k", b"v")
        assert (await take(changes, 1)) == [put]
        assert await two.get("k") == put
        await one.put("k", b"w")
        assert [r.value for r in await take(changes, 1)] == [b"w"]
        await one.delete("k")
        assert [r.gone for r in await take(changes, 1)] == [True]
        assert await two.get("k") is None
        assert two.keys() == one.keys() == []


async def test_who_comes_late_has_it_all(zone, inner):
    (one,) = await tables(zone, inner, "n1")
    for turn in range(300):
        await one.put(f"k{turn}", str(turn).encode())
    await one.delete("k7")
    (two,) = await tables(zone, inner, "n2")
    await eventually(lambda: holding(two) == holding(one))
    assert len(two.keys()) == 299


async def test_only_its_owner_changes_a_record(zone, inner):
    one, two = await tables(zone, inner, "n1", "n2")
    await one.put("k", b"of n1")
    await eventually(lambda: two.keys() == ["k"])
    with pytest.raises(CloudError) as caught:
        await two.delete("k")
    assert caught.value.kind == "absent"
    await two.put("k", b"of n2")  # two that claim one key: both are kept, the last is shown
    await eventually(lambda: len(one.owned("k")) == 2)
    assert (await one.get("k")).value == b"of n2"
    await two.delete("k")
    await eventually(lambda: holding(one) == {"k": b"of n1"})


async def test_records_end_with_their_lifetime(zone, inner, fast):
    one, two = await tables(zone, inner, "n1", "n2")
    with two.watch() as changes:
        await one.put("k", b"v", lifetime=0.4)
        assert [r.value for r in await take(changes, 1)] == [b"v"]
        (ended,) = await take(changes, 1)
        assert (ended.key, ended.gone) == ("k", True)
        assert await two.get("k") is None
        await eventually(lambda: one.keys() == [])


async def test_bad_use(bus, nursery):
    engine = await bus.up("n1")
    for wrong in (
        lambda: Table(engine, "a b/*"),
        lambda: Table(engine, "t", "strong"),
        lambda: Table(engine, "t", "quorum"),
        lambda: Table(engine, "t", "eventual", ["n1"]),
    ):
        with pytest.raises(CloudError):
            wrong()
    table = Table(engine, "t")
    for use in (
        table.put("*", b""),
        table.put("k", bytes(70_000)),
        table.put("k", b"", lifetime=-1),
        table.put("k", b"", lifetime=float("nan")),
        table.delete("k"),
    ):
        with pytest.raises(CloudError):
            await use
    answer = await engine.ask("table/t", b"junk", timeout=1)
    assert answer.replies == []


async def test_after_a_cut_both_sides_agree(bus, nursery, fast):
    names = ["n1", "n2", "n3", "n4"]
    all_of = await tables(bus, nursery, *names)
    pairs = [(a, b) for a in names[:2] for b in names[2:]]
    await all_of[0].put("before", b"")
    for pair in pairs:
        bus.bus.cut(*pair)
    for turn, table in enumerate(all_of):
        await table.put("same", str(turn).encode())
        await table.put(f"own{turn}", b"")
    await all_of[0].delete("before")
    await eventually(lambda: holding(all_of[0]) == holding(all_of[1]))
    assert "own2" not in holding(all_of[0])
    assert "before" in holding(all_of[2])
    for pair in pairs:
        bus.bus.heal(*pair)
    await eventually(lambda: all(holding(t) == holding(all_of[0]) for t in all_of))
    assert holding(all_of[2]) == {"same": b"3", **{f"own{turn}": b"" for turn in range(4)}}


async def test_what_no_push_brought_a_repair_brings(bus, nursery, fast):
    one, two = await tables(bus, nursery, "n1", "n2")
    two._copies.merge = lambda *args: False
    await one.put("k", b"v")
    await trio.sleep(0.1)
    assert two.keys() == []
    del two._copies.merge
    await eventually(lambda: two.keys() == ["k"])


async def test_large_tables_are_repaired_in_batches(bus, nursery):
    (one,) = await tables(bus, nursery, "n1")
    for turn in range(200):
        await one.put(f"k{turn}", bytes(20_000))
    (two,) = await tables(bus, nursery, "n2")
    await eventually(lambda: len(two.keys()) == 200)
    assert two._copies.root() == one._copies.root()


# --- quorum ----------------------------------------------------------------------------------

THREE = {"mode": "quorum", "replicas": ["n1", "n2", "n3"]}


async def test_a_majority_writes_and_reads(zone, inner):
    one, two, three, four = await tables(zone, inner, "n1", "n2", "n3", "n4", **THREE)
    await four.put("k", b"1")  # who is no replica may use it
    for table in (one, two, three, four):
        assert (await table.get("k")).value == b"1"
    await one.put("k", b"2")
    assert (await four.get("k")).value == b"2"
    await two.delete("k")
    assert await three.get("k") is None
    with pytest.raises(CloudError):
        await one.delete("k")
    assert await one.get("other") is None
    assert four.keys() == []


async def test_without_a_majority_it_refuses(bus, nursery, monkeypatch):
    monkeypatch.setattr("cloudfs.fabric.quorum.PATIENCE", 0.5)
    one, two, three = await tables(bus, nursery, "n1", "n2", "n3", **THREE)
    await one.put("k", b"1")
    bus.bus.cut("n1", "n2")
    bus.bus.cut("n1", "n3")
    for use in (one.get("k"), one.put("k", b"x"), one.delete("k")):
        with pytest.raises(CloudError) as caught:
            await use
        assert caught.value.kind == "unreachable"
        assert "1 of 3 replicas answered, 2 are needed" in caught.value.why
        assert caught.value.fix
    await two.put("k", b"2")
    assert (await three.get("k")).value == b"2"
    bus.bus.heal("n1", "n3")
    assert (await one.get("k")).value == b"2"
    assert one.owned("k")[0].value == b"2"  # reading brought its own copy up to date


async def test_one_lost_replica_delays_nothing(bus, nursery):
    one, two, _ = await tables(bus, nursery, "n1", "n2", "n3", **THREE)
    bus.bus.cut("n1", "n3")
    began = trio.current_time()
    for turn in range(20):
        await one.put("k", str(turn).encode())
        assert (await two.get("k")).value == str(turn).encode()
    assert trio.current_time() - began < 2


async def test_another_list_of_replicas_is_refused(bus, nursery, monkeypatch):
    monkeypatch.setattr("cloudfs.fabric.quorum.PATIENCE", 0.5)
    await tables(bus, nursery, "n1", "n2", "n3", **THREE)
    wrong = Table(bus.engines["n1"], "objects", "quorum", ["n2", "n3"])
    with pytest.raises(CloudError) as caught:
        await wrong.put("k", b"")
    assert "n2: n2 keeps table/objects with replicas n1 n2 n3" in caught.value.why


async def test_writers_at_once_agree_in_the_end(bus, nursery):
    all_of = await tables(bus, nursery, "n1", "n2", "n3", **THREE)
    async with trio.open_nursery() as writing:
        for turn in range(30):
            writing.start_soon(all_of[turn % 3].put, "k", str(turn).encode())
    found = {(await table.get("k")).value for table in all_of}
    assert len(found) == 1


async def test_a_replica_that_restarts_has_kept_its_word(bus, nursery, tmp_path):
    engines = await bus.up("n1", "n2", "n3")
    stores = [Store(tmp_path / f"{n}.db") for n in range(3)]
    async with trio.open_nursery() as first:
        made = [Table(e, "t", store=s, **THREE) for e, s in zip(engines, stores, strict=True)]
        for table in made:
            await first.start(table.run)
        await made[0].put("k", b"v")
        await made[0].put("short", b"v", lifetime=0.01)
        await made[0].put("gone", b"v")
        await made[1].delete("gone")
        first.cancel_scope.cancel()
    await trio.sleep(0.05)
    made = [Table(e, "t", store=s, **THREE) for e, s in zip(engines[:2], stores, strict=False)]
    for table in made:
        await nursery.start(table.run)
    assert (await made[0].get("k")).value == b"v"
    assert await made[1].get("gone") is None
    assert await made[1].get("short") is None
    for store in stores:
        store.close()


async def test_an_eventual_copy_can_be_kept(tmp_path, bus, nursery):
    engine = await bus.up("n1")
    store = Store(tmp_path / "t.db")
    table = Table(engine, "t", store=store)
    async with trio.open_nursery() as first:
        await first.start(table.run)
        old = await table.put("k", b"v")
        first.cancel_scope.cancel()
    again = Table(engine, "t", store=store)
    await nursery.start(again.run)
    assert await again.get("k") == old
    store.close()


def test_a_store_that_cannot_be(tmp_path):
    (tmp_path / "t.db").write_bytes(b"no sqlite at all" * 100)
    with pytest.raises(CloudError) as caught:
        Store(tmp_path / "t.db")
    assert caught.value.kind == "io"
