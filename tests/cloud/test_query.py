"""Queries of real nodes in two clusters: attributes, the nearest by probes, a dead node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudfs import ndb
from tests.cloud.net import Net, eventually, expect


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Net({"east": "e1 e2", "west": "w1 w2"}) as found:
        e1 = found["e1"]
        eventually(lambda: expect(e1.ls("nodes"), ["e1", "e2", "w1", "w2"]), 30)
        found["w1"].write("label gpu=a100", "nodes", "w1", "ctl")
        yield found


def test_what_another_cluster_has(net: Net) -> None:
    e1 = net["e1"]
    eventually(lambda: expect(e1.ls("query", "label.gpu=a100"), ["w1"]), 30)
    eventually(lambda: expect(e1.ls("query", "cluster=east", "cpus>=1"), ["e1", "e2"]), 30)
    assert e1.ls("query", "label.gpu=b200") == []
    status = e1.status("query", "label.gpu=a100", "w1", "status")
    assert (status["name"], status["cluster"]) == ("w1", "west")
    assert "load" in e1.sh("ls $cloud/query/label.gpu=a100/*").split()
    why = e1.sh("ls $cloud/query/near=w1/near=w2; cloudfs why", status=None)
    assert "only one near= can be" in why


def answer(net: Net, text: str) -> list[dict[str, str]]:
    """What e1's net/cs answers a question in one open file."""
    line = f"exec 3<>$cloud/net/cs; echo {ndb.quote(text)} >&3 && cat <&3"
    return [ndb.parse(record) for record in net["e1"].sh(line).splitlines()]


def test_the_nearest_is_measured(net: Net) -> None:
    def near() -> None:
        found = answer(net, "near w1 count=3")
        assert {each["node"] for each in found} == {"e1", "e2", "w2"}
        hows = {(each.get("how"), each.get("probed")) for each in found}
        assert hows == {("measured", "yes")}, found
        times = [float(each["rtt"]) for each in found]
        assert times == sorted(times)
        assert 0 < times[0] < 1

    eventually(near, 20)


def test_a_node_that_died_is_found_no_more(net: Net) -> None:
    e1 = net["e1"]
    net["w1"].kill()
    eventually(lambda: expect(e1.ls("query", "label.gpu=a100"), []), 30)
    eventually(lambda: expect(e1.ls("query", "state=gone"), ["w1"]), 15)
    why = e1.sh("ls $cloud/query/near=w1; cloudfs why", status=None)
    assert "node w1 is gone, nothing was heard of it for" in why
