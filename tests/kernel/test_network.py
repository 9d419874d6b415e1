"""What the network costs: several nodes that measure each other in virtual time."""

import math

import pytest
import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import coordinate, network, probing
from cloudfs.kernel.coordinate import Coordinate
from cloudfs.kernel.figure import Known
from tests.kernel.town import Town

PLACES = {f"n{i}": (i % 4 * 0.03, i // 4 * 0.05) for i in range(12)}


def rtt(one, other):
    """Seconds between two towns on a plain, by access links of 2 ms."""
    return math.dist(PLACES[one], PLACES[other]) + 0.004


@pytest.fixture
async def town(autojump_clock, nursery, tmp_path):
    town = Town(tmp_path, nursery)
    town.rtt = rtt
    yield town
    nursery.cancel_scope.cancel()


def record(text):
    return ndb.parse(text)


async def test_every_node_measures_those_it_knows(autojump_clock, town):
    n0, n1, _n2 = await town.add("n0", "n1", "n2")
    await town.settle()
    await town.until(lambda: len(n0.network.near()) == 2)
    table = (await n0.cat("/cloud/net/latency")).splitlines()
    assert [line.split()[0] for line in table] == ["n1", "n2"]
    _name, value, age, how, error = table[0].split()
    assert float(value) == pytest.approx(rtt("n0", "n1"), rel=0.01)
    assert how == "measured"
    assert float(age) < 5
    assert float(error) < 0.01
    assert n0.network.near()[0] == ("n1", pytest.approx(rtt("n0", "n1")))
    assert sorted(await n0.ls("/cloud/net")) == [
        *("bandwidth", "coordinate", "cs", "ctl", "interfaces", "latency", "loss", "map.svg"),
        *("n1", "n2", "near"),
    ]  # fmt: skip
    await town.until(lambda: n1.kept == {"n0", "n2"})
    # The same as that other node sees it.
    await town.until(lambda: n1.network.latency("n2") is not None)
    there = await n0.cat("/cloud/nodes/n1/net/n2/latency")
    assert float(record(there)["value"]) == pytest.approx(rtt("n1", "n2"), rel=0.01)


async def test_coordinates_are_told_and_predict_what_nobody_measured(autojump_clock, town):
    await town.add(*PLACES)
    await town.settle()
    await trio.sleep(90)
    n0 = town.nodes["n0"]
    off = []
    for one in PLACES:
        for other in PLACES:
            if "n0" not in (one, other) and one < other:
                known = n0.network.between(one, other)
                assert known.how == "predicted"
                assert known.error > 0
                off.append(abs(known.value - rtt(one, other)) / rtt(one, other))
    assert sorted(off)[len(off) // 2] < 0.15
    assert n0.network.between("n0", "n0") == Known(0.0, 0.0, "measured", 0.0)
    own = coordinate.parse(await n0.cat("/cloud/net/coordinate"))
    told = coordinate.parse(await town.nodes["n1"].cat("/cloud/net/n0/coordinate"))
    assert math.dist(own.place, told.place) < 0.05


async def test_a_coordinate_that_stands_still_is_told_seldom(autojump_clock, town):
    _n0, n1, _ = await town.add("n0", "n1", "n2")
    await town.settle()
    await trio.sleep(120)
    told, changes = None, 0
    for _ in range(60):
        await trio.sleep(2)
        now = n1.cloud.nodes["n0"].told["coordinate"]
        changes += now != told
        told = now
    assert changes <= 4


async def test_a_changed_link_shows_within_fifteen_seconds(autojump_clock, town):
    n0, *_ = await town.add(*(f"n{i}" for i in range(6)))
    await town.settle()
    town.rtt = lambda one, other: 0.02
    await trio.sleep(60)
    assert n0.network.latency("n1").value == pytest.approx(0.02)
    town.rtt = lambda one, other: 0.2 if {one, other} == {"n0", "n1"} else 0.02
    with trio.fail_after(15):
        while n0.network.latency("n1").value < 0.19:
            await trio.sleep(0.1)
    assert n0.network.latency("n2").value == pytest.approx(0.02)


async def test_few_probes_are_sent(autojump_clock, town):
    await town.add(*list(PLACES)[:5])
    await town.settle()
    await trio.sleep(20)
    town.probes.clear()
    await trio.sleep(60)
    sent = [probe for probe in town.probes if probe[1] == "n0"]
    assert 40 <= len(sent) <= 60 / probing.PERIOD * 1.1


async def test_a_dead_node_keeps_its_last_values_and_is_no_reference(autojump_clock, town):
    n0, n1, _ = await town.add("n0", "n1", "n2")
    await town.settle()
    await trio.sleep(30)
    n1.scope.cancel()
    await town.until(lambda: n0.cloud.node("n1").state == "gone")
    await trio.sleep(30)
    assert set(n0.network.references) == {"n2"}
    assert "n1" not in dict(n0.network.near())
    first = record(await n0.cat("/cloud/net/n1/latency"))
    assert float(first["age"]) > 30
    assert first["how"] == "measured"
    await trio.sleep(200)
    later = record(await n0.cat("/cloud/net/n1/latency"))
    assert later["value"] == first["value"]
    assert float(later["age"]) > float(first["age"]) + 190
    assert float(later["error"]) > float(first["error"])
    with pytest.raises(CloudError, match=r"n1 is gone.*cloudfs nodes") as failed:
        await n0.echo("probe", "/cloud/net/n1/ctl")
    assert failed.value.kind == "unreachable"


async def test_probes_on_demand(autojump_clock, town):
    n0, _n1, _ = await town.add("n0", "n1", "n2")
    await town.settle()
    town.probes.clear()
    began = trio.current_time()
    await n0.echo("probe count=10", "/cloud/net/n1/ctl")
    assert trio.current_time() - began < 2
    assert len([probe for probe in town.probes if probe[1:] == ("n0", "n1")]) >= 10
    assert float(await n0.cat("/cloud/net/n1/jitter")) == 0
    await n0.echo("probe n1 count=2", "/cloud/net/ctl")
    for line in ("probe", "probe n9", "probe n0", "probe ../n1", "probe n1 2 3"):
        with pytest.raises(CloudError):
            await n0.echo(line, "/cloud/net/ctl")
    for line, kind in (
        ("probe count=0", "bad"),
        ("probe count=33", "bad"),
        ("probe count=x", "bad"),
        ("probe often", "bad"),
        ("probe 1 2", "bad"),
        ("prod", "bad"),
        ("probe bandwidth", "unsupported"),
    ):
        with pytest.raises(CloudError) as failed:
            await n0.echo(line, "/cloud/net/n1/ctl")
        assert failed.value.kind == kind, line
        assert failed.value.why
    async with trio.open_nursery() as nursery:
        refused = []

        async def ask():
            try:
                await n0.network.demands.probe("n1", 30, 5)  # doubts may hold the rest of the queue
            except CloudError as error:
                refused.append(error.kind)

        for _ in range(4):
            nursery.start_soon(ask)
    assert refused == ["toomany", "toomany"]


async def test_a_probe_without_answers_ends_with_the_reason(autojump_clock, town):
    n0, _n1, _ = await town.add("n0", "n1", "n2")
    await town.settle()
    await trio.sleep(20)
    town.lost = 1.0
    with pytest.raises(CloudError, match="n1") as failed:
        await n0.network.demands.probe("n1", 2, 5)
    assert failed.value.kind == "timeout"
    town.lost = 0.5
    found = await n0.network.demands.probe("n1", 20, 10)
    assert 0.2 < found.loss < 0.9
    known = n0.network.loss("n1")
    assert known.value == found.loss
    assert 0.05 < known.error < 0.2


async def test_another_node_is_asked_to_probe(autojump_clock, town):
    n0, *_ = await town.add("n0", "n1", "n2")
    await town.settle()
    known = await n0.network.demands.probe_from("n1", "n2", 2, 5)
    assert known.value == pytest.approx(rtt("n1", "n2"))
    assert known.how == "measured"
    assert (await n0.network.demands.probe_from("n0", "n2", 1, 5)).value == pytest.approx(
        rtt("n0", "n2")
    )
    for source, node in (("n9", "n1"), ("n1", "n9"), ("n1", "n1"), ("n1", "a/b"), ("n0", "n0")):
        with pytest.raises(CloudError):
            await n0.network.demands.probe_from(source, node, 1, 5)


async def test_unknown_nodes(autojump_clock, town):
    n0, _ = await town.add("n0", "n1")
    await town.settle()
    for name in ("n9", "n0", "...", "a" * 300):
        with pytest.raises(CloudError) as failed:
            await n0.cat(f"/cloud/net/{name}/latency")
        assert failed.value.kind in ("absent", "toolong")
    with pytest.raises(CloudError, match="ls /cloud/nodes") as failed:
        await n0.network.demands.probe("n9", 1, 1)
    assert failed.value.kind == "absent"
    assert n0.network.latency("n9") is None
    assert n0.network.coordinate_of("n9") is None


async def test_hostile_coordinates_are_no_ones(autojump_clock, town):
    n0, _n1 = await town.add("n0", "n1")
    await town.settle()
    info = n0.cloud.nodes["n1"]
    for text in ("", "place=nan", "place=1,2 height=0 error=0", "x" * 5000,
                 str(Coordinate((9.0,) * coordinate.DIMS, 0.1, 0.1))):  # fmt: skip
        info.told["coordinate"] = text
        assert n0.network.coordinate_of("n1") is None
    with pytest.raises(CloudError):
        n0.network.pong(b"")
    with pytest.raises(CloudError):
        n0.network.pong(b"\0" + b"\xff" * 32)


async def test_passive_times_confirm_or_raise_a_doubt(autojump_clock, town):
    n0, n1, _ = await town.add("n0", "n1", "n2")
    await town.settle()
    await trio.sleep(30)
    usual = n0.network.latency("n1").value
    for node in (n0, n1):  # only what is asked for from now on
        node.network.refer({})
        node.measure._chosen = math.inf
    await trio.sleep(20)
    assert n0.network.latency("n1").age > 15
    n0.network.passive("n1", usual * 1.01)
    assert n0.network.latency("n1").age == 0
    town.rtt = lambda one, other: 0.3
    town.probes.clear()
    await trio.sleep(1)
    for _ in range(5):
        n0.network.passive("n1", 0.3)
    await trio.sleep(3)
    probes = [probe for probe in town.probes if probe[1:] == ("n0", "n1")]
    assert 2 <= len(probes) <= 6
    assert n0.network.latency("n1").value == pytest.approx(0.3)


async def test_what_the_engine_carried_confirms_and_never_raises_a_doubt(autojump_clock, town):
    n0, n1, _ = await town.add("n0", "n1", "n2")
    await town.settle()
    await trio.sleep(30)
    usual = n0.network.latency("n1").value
    for node in (n0, n1):
        node.network.refer({})
        node.measure._chosen = math.inf
    await trio.sleep(20)
    town.probes.clear()
    n0.network.confirm("n1", usual * 9)
    await trio.sleep(3)
    assert n0.network.latency("n1").age > 15
    assert not [probe for probe in town.probes if probe[1:] == ("n0", "n1")]
    n0.network.confirm("n1", usual * 1.01)
    assert n0.network.latency("n1").age == 0
    n0.network.confirm("nosuch", 0.1)


async def test_the_cost_of_moving_and_starting(autojump_clock, town):
    n0, n1 = await town.add("n0", "n1")
    await town.settle()
    await n1.echo("price 3.6", "/cloud/nodes/n1/ctl")
    await n1.start("sleep 1")
    await trio.sleep(60)
    one = (await n0.cat("/cloud/net/n1/cost")).splitlines()
    assert one[0].startswith("move bytes=0 seconds=0.034")
    assert [line.split()[1] for line in one[1:]] == ["runtime=process"]
    n0.network.took_bandwidth("n1", Known(1e6, 0.0, "measured", 1e5))
    assert float((await n0.cat("/cloud/net/bandwidth")).split()[1]) == 1e6
    lines = (await n0.cat("/cloud/net/n1/cost")).splitlines()
    moves = {int(r["bytes"]): r for r in map(record, lines) if "bytes" in r}
    assert float(moves[10**6]["seconds"]) == pytest.approx(1.034, rel=0.01)
    assert float(moves[10**9]["price"]) == pytest.approx(1.0, rel=0.01)
    await trio.sleep(10)
    assert record(await n0.cat("/cloud/net/n1/bandwidth"))["age"] == "10.0"


async def test_bandwidth_is_measured_by_whoever_can(autojump_clock, town):
    n0, _ = await town.add("n0", "n1")
    await town.settle()

    async def measure(node):
        await trio.sleep(1)
        return Known(12.5e6, 0.0, "measured", 1e6)

    n0.network.demands.measure_bandwidth = measure
    await n0.echo("probe bandwidth", "/cloud/net/n1/ctl")
    assert n0.network.bandwidth("n1") == Known(12.5e6, 0.0, "measured", 1e6)


async def test_nodes_of_other_zones_are_found(autojump_clock, town):
    n0, n1 = await town.add("n0", "n1")
    n2 = await town.add("n2", cluster="tokyo")
    await town.settle(n0, n1)
    await town.until(lambda: len(n2.network.near()) == 2 and len(n0.network.near()) == 2, 60)
    assert not n0.cloud.nodes["n2"].near
    assert n0.network.references == {"n1": True, "n2": False}


async def test_state_grows_with_neighbours_only(autojump_clock, town):
    n0, _ = await town.add("n0", "n1")
    await town.settle()
    for i in range(2 * network.KEPT):
        n0.network.took(f"x{i}", 0.01 + i / 1000, coordinate.NOWHERE, "explore")
    assert len(n0.network._ways) == network.KEPT
    assert n0.network.met("x0")  # near ones stay
    assert len(n0.network.position.references) <= 2 * coordinate.CHOSEN
