"""Cut links: what is cut is silent, what is not is whole, open connections included."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from cloudfs.errors import CloudError
from tests.cloud.links import Links, links, waiting
from tests.cloud.net import Net

NAMES = ["n1", "n2", "n3", "n4"]
ALL = {(a, b) for a in NAMES for b in NAMES if a != b}


@pytest.fixture(scope="module")
def wired() -> Iterator[Links]:
    """Four nodes without daemons."""
    with Net(4, start=False) as net, links(net) as found:
        yield found


@pytest.fixture(autouse=True)
def whole(wired: Links) -> Iterator[None]:
    yield
    wired.net.heal()


def between(*groups: str) -> set[tuple[str, str]]:
    """The ways within the groups."""
    return {(a, b) for g in groups for a in g.split() for b in g.split() if a != b}


def test_all_is_open_at_first(wired: Links) -> None:
    assert wired.ways() == ALL


def test_both_ways(wired: Links) -> None:
    wired.net.cut("n1", "n2")
    assert wired.ways() == ALL - {("n1", "n2"), ("n2", "n1")}
    wired.net.heal()
    assert wired.ways() == ALL


def test_one_way(wired: Links) -> None:
    wired.net.cut_one_way("n1", "n2")
    assert wired.ways() == ALL - {("n1", "n2")}
    wired.net.cut_one_way("n3", "n4")
    assert wired.ways() == ALL - {("n1", "n2"), ("n3", "n4")}
    wired.net.heal("n1", "n2")
    assert wired.ways() == ALL - {("n3", "n4")}


@pytest.mark.parametrize(
    "groups", [("n1 n2", "n3 n4"), ("n1 n2", "n3", "n4"), ("n1 n4",), ("n2 n3 n4",), ()]
)
def test_partitions(wired: Links, groups: tuple[str, ...]) -> None:
    wired.net.partition(*groups)
    assert wired.ways() == between(*groups)


def test_one_partition_after_another(wired: Links) -> None:
    wired.net.partition("n1 n2", "n3 n4")
    wired.net.partition("n1 n3", "n2 n4")
    assert wired.ways() == between("n1 n3", "n2 n4")
    wired.net.isolate("n1")
    assert wired.ways() == between("n2 n3 n4")


def test_groups_of_unknown_nodes_are_refused(wired: Links) -> None:
    with pytest.raises(CloudError, match="n9: no such port"):
        wired.net.partition("n1 n9", "n2")
    assert wired.ways() == ALL


def test_open_connections_feel_a_cut_and_go_on_after_it(wired: Links) -> None:
    pair = wired.connect("n1", "n2")
    assert pair is not None
    caller, called = pair
    with caller, called:
        caller.send(b"a")
        assert called.recv(9) == b"a"
        wired.net.cut_one_way("n1", "n2")
        caller.send(b"b")
        with pytest.raises(TimeoutError):
            called.recv(9)
        called.send(b"c")  # the other way is open
        assert caller.recv(9) == b"c"
        wired.net.heal()
        called.settimeout(10)  # until TCP tries again
        assert called.recv(9) == b"b"


@pytest.mark.parametrize("way", [("n1", "n2"), ("n2", "n1")])
def test_no_connection_comes_about_over_a_half_cut_link(wired: Links, way: tuple[str, str]) -> None:
    wired.net.cut_one_way(*way)
    assert wired.connect("n1", "n2") is None
    wired.net.heal()
    while pair := _late(wired.tcp["n2"]):
        pair.close()  # what was still on its way
    pair_now = wired.connect("n1", "n2")
    assert pair_now is not None
    for end in pair_now:
        end.close()


def _late(listener: socket.socket) -> socket.socket | None:
    try:
        return listener.accept()[0]
    except TimeoutError:
        return None


def test_nobody_hears_what_is_sent_to_all(wired: Links) -> None:
    sender = wired.udp["n1"]
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sender.sendto(b"all", ("10.77.255.255", 7))
    time.sleep(0.1)
    assert {name: waiting(one) for name, one in wired.udp.items()} == dict.fromkeys(NAMES)
