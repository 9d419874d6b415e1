"""Objects started anywhere run where they are wanted, once, and hold what they were promised."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from cloudfs import ndb
from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect
from tests.cloud.views import AGREE, GONE, OWN, objects, see, settle, within

MakeNet = Callable[..., Net]
_numbers = count(random.randrange(10**6) * 1000)

PLACE = 10.0  # seconds for an object to be placed, or refused, whatever fails meanwhile


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """Four nodes, without labels of their own, that tests leave as they were."""
    with Net({"east": "n1 n2", "west": "n3 n4"}) as found:
        yield settle(found)


def mark() -> str:
    return f"1000.{next(_numbers):010}"


def sleeper(node: Machine, word: str, *setup: str) -> str:
    return node.begin(f"exec sleep {word}", *setup, seconds=PLACE)


def try_sleeper(node: Machine, word: str, *setup: str) -> str:
    """The id of one that may be refused; "" if nothing could even be asked."""
    try:
        return sleeper(node, word, *setup)
    except AssertionError:
        return ""


# --- where ----------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["n1", "n3"])
def test_on_a_node_and_from_anywhere(net: Net, start: str) -> None:
    word = mark()
    id = net[start].begin(f"echo begun; read x; echo $x; exec sleep {word}", "on n3")
    assert net[start].status("proc", id, "status")["node"] == "n3"
    eventually(lambda: see(net, id, state="running", node="n3"), AGREE)
    for node in net:
        eventually(lambda at=node: expect(at.read("proc", id, "stdout"), "begun\n"), AGREE)
        assert id in node.ls("view/by-node/n3")
        assert id in node.ls("nodes/n3/proc")
    net["n2"].write("hello", "proc", id, "stdin")
    eventually(lambda: expect(net.where(word), ["n3"]), AGREE)
    eventually(lambda: expect(net["n4"].read("proc", id, "stdout"), "begun\nhello\n"), AGREE)
    waiter = net["n2"].start_command("cat", net["n2"].path(".follow/proc", id, "wait"), stdout=-1)
    time.sleep(0.5)
    assert waiter.poll() is None
    net["n1"].write("kill", "proc", id, "ctl")
    said = waiter.communicate(timeout=10)[0]
    assert ndb.parse(said)["signal"] == "KILL"
    assert net.where(word) == []
    eventually(lambda: see(net, id, state="exited"), AGREE)


@pytest.mark.parametrize("reader", ["n1", "n4"])
def test_what_was_opened_before_exec_goes_on_where_it_is(net: Net, reader: str) -> None:
    """Followers on the node that made it and on a third one, and a ctl that stays open."""
    here, id = net["n1"], net["n1"].read("proc/clone").strip()
    at = f".follow/nodes/n1/proc/{id}" if reader == "n4" else f".follow/proc/{id}"
    here.write("runtime process", "proc", id, "ctl")
    names = ("stdout", "wait", "events")
    paths = [net[reader].path(at, name) for name in names]
    follow = [net[reader].start_command("cat", path, stdout=-1) for path in paths]
    time.sleep(1)
    here.sh(
        f"exec 3>$cloud/proc/{id}/ctl; echo on n2 >&3;"
        "echo \"exec sh -c 'for i in 1 2 3; do echo \\$i; sleep 0.3; done; read x; exit 7'\" >&3;"
        "echo label kept=open >&3; sleep 1.5; echo close stdin >&3"
    )
    said = dict(zip(names, (one.communicate(timeout=10)[0] for one in follow), strict=True))
    assert said["stdout"] == "1\n2\n3\n"
    assert ndb.parse(said["wait"])["code"] == "7"
    assert "event=placed" in said["events"]
    assert "event=ended" in said["events"]
    assert here.read("proc", id, "labels") == "kept=open\n"
    assert here.status("proc", id, "spec")["on"] == "n2"


def test_require_and_prefer(net: Net) -> None:
    net["n1"].write("label gpu=yes", "nodes/n4/ctl")
    try:
        for setup in (
            "require label.gpu=yes",
            "prefer label.gpu=yes",
            "require cluster=west node=n4",
        ):
            word = mark()
            ids = []

            def there(setup: str = setup, word: str = word, ids: list[str] = ids) -> None:
                ids.append(sleeper(net["n1"], word, setup))
                expect(net["n1"].status("proc", ids[-1], "status")["node"], "n4", setup)

            eventually(there, AGREE)  # until n1 has heard of the label
            for id in ids:
                net["n1"].write("kill", "proc", id, "ctl")
    finally:
        net["n1"].write("label gpu=", "nodes/n4/ctl")


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ("require cpus>=9999", ["none of 4 nodes will do: cpus>=9999 fails on 4"]),
        ("require 'cpus>=2 arch=x86_64'", ["make each expression a word"]),
        ("require cluster=south", ["cluster=south", "4"]),
        ("require cpus>>2", ["cpus>>2"]),
        ("on n9", ["no node 'n9' was found"]),
        ("on a/b", ["'a/b' cannot be a name"]),
    ],
)
def test_what_cannot_be_is_refused_with_the_term(net: Net, setup: str, words: list[str]) -> None:
    node = net["n1"]
    id = node.read("proc/clone").strip()
    line = f"cd $cloud/proc/{id} && echo \"{setup}\" >ctl && echo 'exec sleep 1' >ctl && exit 9; cloudfs why"
    began = time.monotonic()
    why = node.sh(line)
    within(PLACE, began, setup)
    for word in words:
        assert word in why
    assert node.status("proc", id, "status")["state"] == "new"
    assert node.read("version")


def test_spread_over_clusters_and_nodes(net: Net) -> None:
    word = mark()
    ids = net["n1"].sh(f"cloudfs run -n 4 --spread node sleep {word}", seconds=30).split()
    assert sorted(net.where(word)) == ["n1", "n2", "n3", "n4"]
    two = mark()
    ids += net["n2"].sh(f"cloudfs run -n 2 --spread cluster sleep {two}", seconds=30).split()
    assert {net[name].cluster for name in net.where(two)} == {"east", "west"}
    net["n3"].sh(f"cloudfs kill {' '.join(ids)}", seconds=30)
    assert net.where(word) + net.where(two) == []


def test_a_drained_node_takes_nothing_new(net: Net) -> None:
    word, other = mark(), mark()
    stays = sleeper(net["n1"], word, "on n2")
    net["n4"].write("drain -s for repair", "nodes/n2/ctl")
    try:
        id = net["n1"].read("proc/clone").strip()
        net["n1"].write("on n2", "proc", id, "ctl")
        why = net["n1"].refused(f"exec sleep {other}", "proc", id, "ctl")
        assert "for repair" in why
        assert net.where(word) == ["n2"]
        assert net.where(other) == []
    finally:
        net["n4"].write("undrain", "nodes/n2/ctl")
    net["n1"].write("kill", "proc", stays, "ctl")
    back = sleeper(net["n3"], other, "on n2")
    assert net.where(other) == ["n2"]
    net["n3"].write("kill", "proc", back, "ctl")


# --- how much -------------------------------------------------------------------------


def test_what_is_promised_is_never_exceeded(net: Net) -> None:
    word = mark()
    cpus = int(net["n2"].read("nodes/n2/cpus"))
    wanted = 4 * cpus + 4

    def ask(node: Machine) -> list[str]:
        setup = ("on n2", "limit cpu=1")
        return [try_sleeper(node, word, *setup) for _ in range(wanted // len(net))]

    given = [id for ids in net.each(ask).values() for id in ids if id]
    assert len(net.where(word)) == len(given) == cpus
    for id in given:
        net["n4"].write("kill", "proc", id, "ctl")
    assert net.where(word) == []
    # Nothing has leaked: as many find room again.
    again = [sleeper(net["n3"], word, "on n2", "limit cpu=1") for _ in range(cpus)]
    assert net.where(word) == ["n2"] * cpus
    for id in again:
        net["n3"].write("kill", "proc", id, "ctl")


def test_what_was_asked_for_and_never_started_is_given_back(make_net: MakeNet) -> None:
    """The one that asks dies in between; the target waits no longer than for any new object."""
    net = settle(make_net(3))
    cpus = int(net["n2"].read("nodes/n2/cpus"))
    chance = random.Random(3)
    for _ in range(4):
        asking = net["n1"].start_command(
            "sh",
            "-c",
            "while :; do id=$(cat $cloud/proc/clone); p=$cloud/proc/$id/ctl; "
            "for l in 'runtime process' 'on n2' 'limit cpu=1' 'exec true'; do echo $l >$p; done; done",
            stderr=-3,
        )
        time.sleep(chance.uniform(0.3, 1.5))
        net["n1"].kill()
        asking.kill()
        asking.wait()
        net["n1"].start()
        net["n1"].sh("pkill -f proc/clone", status=None)
    word = mark()

    def room() -> None:
        found = [try_sleeper(net["n3"], word, "on n2", "limit cpu=1") for _ in range(cpus)]
        assert all(found), f"only {len([x for x in found if x])} of {cpus} found room"

    eventually(room, 90, every=5)


# --- faults in between ----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_never_lost_and_never_twice_whatever_fails_meanwhile(make_net: MakeNet, seed: int) -> None:
    """Objects are started from everywhere while links are cut and daemons killed.  At the end
    each runs exactly once where its status says, or its start was refused and it never ran."""
    net = settle(make_net(5))
    chance = random.Random(seed)
    words: dict[str, tuple[Machine, str]] = {}  # mark: who asked, and the id it got
    names = list(net.all)
    for round in range(6):
        fault = chance.choice(["partition", "one way", "kill target", "kill asker", "freeze"])
        asker, target = (net[name] for name in chance.sample(names, 2))
        word = mark()
        line = (
            f"id=$(cat $cloud/proc/clone) && p=$cloud/proc/$id && echo $id && "
            f"echo runtime process >$p/ctl && echo on {target.name} >$p/ctl && "
            f"echo exec sleep {word} >$p/ctl && echo done"
        )
        asking = asker.start_command("timeout", "20", "sh", "-c", line, stdout=-1, stderr=-3)
        time.sleep(chance.uniform(0, 0.6))
        if fault == "partition":
            net.isolate(target.name)
        elif fault == "one way":
            net.cut_one_way(*chance.sample([asker.name, target.name], 2))
        elif fault == "freeze":
            target.freeze()
        else:
            (target if fault == "kill target" else asker).kill()
        said = asking.communicate(timeout=30)[0].split()
        words[word] = (asker, said[0] if said else "")
        time.sleep(chance.uniform(0, 2))
        assert len(net.where(word)) <= 1, f"{fault} in round {round}: it runs twice"
        net.heal()
        if fault == "freeze":
            target.thaw()
        net.start()
    settle(net, AGREE + GONE)

    def consistent() -> None:
        for word, (asker, id) in words.items():
            where = net.where(word)
            assert len(where) <= 1, f"{id} runs at {where}"
            if where:
                see(net, id, state="running", node=where[0])
                continue
            known = [seen[id] for seen in net.each(objects).values() if id in seen]
            states = {record["state"] for record in known}
            assert states <= {"new", "exited", "lost"}, (
                f"{id} of {asker.name} is {states}, runs not"
            )

    eventually(consistent, 90, every=2)


def test_own_objects_start_at_once_when_all_others_are_gone(make_net: MakeNet) -> None:
    net = settle(make_net(3))
    net.isolate("n1")
    word = mark()
    began = time.monotonic()
    id = sleeper(net["n1"], word)
    within(2 * OWN, began, "to start one")
    assert net["n1"].status("proc", id, "status")["node"] == "n1"
    why = ""
    second = net["n1"].read("proc/clone").strip()
    net["n1"].write("on n3", "proc", second, "ctl")
    began = time.monotonic()
    why = net["n1"].refused("exec sleep 1", "proc", second, "ctl")
    within(PLACE, began, "to be refused")
    assert "n3" in why
