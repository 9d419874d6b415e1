"""A user made on one node is known on all, whatever fails meanwhile; nothing else is."""

from dataclasses import replace

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.factotum import accounts
from cloudfs.kernel import spread
from cloudfs.kernel.people import People
from cloudfs.kernel.records import Records
from tests.factotum.people import TRUST, key, user
from tests.factotum.test_authority import PARIS, ROME
from tests.kernel.town import Town

ANA, BOB = user("ana", key(1)), user("bob", key(2))
SOON = 2.0  # seconds to be known where all links work
LATE = 4 * spread.PERIOD  # after a fault has ended


@pytest.fixture
async def town(autojump_clock, tmp_path, nursery):
    made = Town(tmp_path, nursery)
    made.trust = TRUST
    return made


def known(nodes, name, version=1):
    found = [node.people.user(name) for node in nodes]
    return all(one is not None and one.version >= version for one in found)


async def test_a_new_user_is_known_everywhere_within_a_bound(town, autojump_clock):
    nodes = await town.add("n1", "n2", "n3", "n4")
    await town.settle()
    nodes[2].people.take(ANA.text())
    await town.until(lambda: known(nodes, "ana"), SOON)
    group = accounts.make_group("web", "ana", ["bob"], key(1))
    nodes[0].people.take(group.text())
    nodes[0].people.take(BOB.text())
    await town.until(lambda: all(n.people.groups_of("bob") == {"web"} for n in nodes), SOON)


async def test_across_clusters(town, autojump_clock):
    paris = await town.add("p1", "p2", "p3", cluster="paris")
    tokyo = await town.add("t1", "t2", "t3", cluster="tokyo")
    nodes = [*paris, *tokyo]
    await town.until(lambda: all(n.cloud.ask is not None for n in nodes), 60)
    paris[2].people.take(ANA.text())
    await town.until(lambda: known(nodes, "ana"), SOON)
    tokyo[2].people.take(accounts.change_user([ANA], key(1), epoch=True).text())
    await town.until(lambda: all(n.people.epoch("ana") == 2 for n in nodes), SOON)


async def test_what_both_sides_of_a_partition_made_is_known_after_it(town, autojump_clock):
    paris = await town.add("p1", "p2", "p3", cluster="paris")
    tokyo = await town.add("t1", "t2", "t3", cluster="tokyo")
    nodes = [*paris, *tokyo]
    await town.until(lambda: all(n.cloud.ask is not None for n in nodes), 60)
    paris[0].people.take(ANA.text())
    await town.until(lambda: known(nodes, "ana"), SOON)
    left, right = [*paris[:2], tokyo[0]], [paris[2], *tokyo[1:]]
    town.partition(left, right)
    await trio.sleep(30)
    left[0].people.take(user("carl", key(3)).text())
    right[1].people.take(BOB.text())
    right[1].people.take(accounts.change_user([ANA], key(1), epoch=True).text())
    left[1].people.take(accounts.change_user([ANA], key(1), more="left").text())
    await trio.sleep(30)
    assert not known(right, "carl")
    assert not known(left, "bob")
    town.heal()
    await town.until(lambda: known(nodes, "bob") and known(nodes, "carl"), 60 + LATE)
    await town.until(
        lambda: all(len(n.people.register.versions("user", "ana")) == 2 for n in nodes), LATE
    )
    assert {node.people.epoch("ana") for node in nodes} == {2}
    assert "event=fork kind=user name=ana" in await nodes[4].cat("/cloud/events")
    ended = accounts.change_user(nodes[0].people.register.versions("user", "ana"), key(1))
    nodes[5].people.take(ended.text())
    await town.until(lambda: known(nodes, "ana", 3), SOON)
    assert all(node.people.register.forks() == [] for node in nodes)


async def test_what_a_push_lost_is_repaired(town, autojump_clock, monkeypatch):
    nodes = await town.add("n1", "n2", "n3", "n4", "n5")
    await town.settle()
    monkeypatch.setattr(spread.Spread, "heard", lambda self, zone, value: None)
    for number in range(200):  # more than one question holds
        nodes[number % 5].people.take(user(f"u{number}", key(10 + number)).text())
    await town.until(lambda: all(len(n.people.register.users()) == 200 for n in nodes), LATE)


async def test_a_newcomer_knows_all_soon(town, autojump_clock):
    one, two = await town.add("n1", "n2")
    await town.settle()
    one.people.take(ANA.text())
    two.people.take(accounts.make_gone(PARIS, BOB).text())
    three = await town.add("n3")
    await town.until(lambda: known([three], "ana"), 30)
    with pytest.raises(CloudError, match="is gone"):
        three.people.take(BOB.text())


async def test_a_liar_convinces_nobody(town, autojump_clock):
    nodes = await town.add("n1", "n2", "n3")
    await town.settle()
    two = accounts.change_user([ANA], key(1), epoch=True)
    nodes[0].people.take(two.text())
    await town.until(lambda: known(nodes, "ana", 2), SOON)
    forged = accounts.make_user(replace(PARIS, key=ROME.key), "eve", key(3))
    lies = [ANA.text(), forged.text(), two.text()[:-5], "x" * 9000, "\0", "user=", "people=1"]
    engine = next(iter(nodes[1].neighbours.sessions.values()))
    for lie in lies:
        engine.tell("people/lie", lie.encode())
    await trio.sleep(2)
    pack = spread.pack
    for payload in (
        pack("give", *(lie.encode() for lie in lies)), pack("fetch", b"", b"x" * 99),
        pack("differ", b"x"), pack("differ", *([b"x" * 16] * 64)), b"\xff", b"", pack("sing"),
    ):  # fmt: skip
        await engine.ask("people/n1", payload, timeout=1, want=frozenset(["n1"]))
    await trio.sleep(30)
    for node in nodes:
        assert node.people.register.users() == ["ana"]
        assert node.people.register.versions("user", "ana") == [two]
    nodes[2].people.take(BOB.text())
    await town.until(lambda: known(nodes, "bob"), SOON)


async def test_it_outlives_the_daemon_and_not_the_cloud(tmp_path):
    records, trust = Records(tmp_path / "db"), [TRUST]
    people = People(lambda: trust[0], records)
    left = accounts.change_user([ANA], key(1), more="left")
    right = accounts.change_user([ANA], key(1), more="right", epoch=True)
    group = accounts.make_group("web", "ana", ["ana"], key(1))
    for one in (BOB, ANA, left, right, group, accounts.make_gone(PARIS, BOB)):
        people.take(one.text())
    hashes = people.register.hashes()
    records.close()
    records = Records(tmp_path / "db")
    again = People(lambda: trust[0], records)
    assert again.register.hashes() == hashes
    assert (again.user("ana"), again.epoch("ana")) == (left, 2)
    assert again.groups_of("ana") == {"web"}
    for old in (ANA, BOB):
        with pytest.raises(CloudError):
            again.take(old.text())
    trust[0] = (ROME.cert, "other")
    assert again.user("ana") is None
    assert again.groups_of("ana") == frozenset()
    records.close()
    assert People(lambda: TRUST, Records(tmp_path / "db")).user("ana") is None


async def test_who_waits_is_told_of_each_change(autojump_clock, nursery):
    people = People(lambda: TRUST, Records(":memory:"))
    rung = trio.Event()

    async def wait():
        await people.changed.wait()
        rung.set()

    nursery.start_soon(wait)
    await trio.sleep(1)
    people.take(ANA.text())
    with trio.fail_after(1):
        await rung.wait()
