"""/cloud/net of real nodes: what the network costs, measured over real sockets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from cloudfs import ndb
from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect
from tests.cloud.views import AGREE, GONE, settle


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """Three nodes, the last of which dies in the last test."""
    with Net({"east": "n1 n2", "west": "n3"}) as found:
        yield settle(found)


def table(node: Machine, *path: str) -> dict[str, list[str]]:
    """The rows of a table by their node."""
    rows = (ndb.words(line) for line in node.read(*path).splitlines())
    return {name: rest for name, *rest in rows}


def all_measured(net: Net) -> None:
    for node in net:
        rows = table(node, "net/latency")
        expect(set(rows), {other.name for other in net if other is not node})
        for value, age, how, error in rows.values():
            expect(how, "measured")
            assert 0 < float(value) < 0.1
            assert 0 <= float(age) < 60
            assert 0 <= float(error) < 0.1


def test_every_node_has_a_row_for_every_other(net: Net) -> None:
    eventually(lambda: all_measured(net), AGREE)
    here = net["n1"]
    nearest = here.sh("sort -n -k2 $cloud/net/latency | head -3").splitlines()
    assert len(nearest) == 2
    assert float(nearest[0].split()[1]) <= float(nearest[1].split()[1])
    assert here.ls("net/n2") == [
        *("bandwidth", "coordinate", "cost", "ctl", "jitter", "latency", "loss"),
    ]  # fmt: skip
    assert here.ls("nodes/n2/net/n3") == here.ls("net/n2")
    assert "move bytes=0 seconds=0.00" in here.read("net/n2/cost")
    assert here.read("net/interfaces").split()[0] == "lo"


def test_probes_are_datagrams(net: Net) -> None:
    def segments() -> int:
        """TCP's that left n1; only connections to other nodes have any."""
        lines = net["n1"].sh("cat /proc/net/snmp").splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(values[names.index("OutSegs")])

    def beside() -> None:
        before = segments()
        net["n1"].write("probe count=20", "net/n2/ctl")
        expect(segments() - before < 20, True)  # within a connection it would be 40 and more

    eventually(beside, 2 * AGREE, 1.0)  # the connection first, until datagrams came through


def test_coordinates_are_told(net: Net) -> None:
    def told() -> None:
        place = net["n1"].read("net/n2/coordinate").split()
        expect([word.partition("=")[0] for word in place], ["place", "height", "error"])

    eventually(told, 2 * AGREE)


def test_probes_on_demand(net: Net) -> None:
    here = net["n1"]

    def probed() -> None:
        here.write("probe count=10", "net/n3/ctl")
        assert float(here.status("net/n3/latency")["age"]) < 2
        assert 0 <= float(here.read("net/n3/jitter")) < 0.1

    eventually(probed, AGREE)
    here.write("probe", "nodes/n2/net/n3/ctl")
    assert "count=N" in here.refused("probe often", "net/n3/ctl")
    done = here.run("cat", here.path("net/n9/latency"), status=1)
    assert "No such file" in done.stderr
    for path in ("nodes/n1/net/probe", "nodes/n2/net/probe"):  # for nodes, not for users
        done = here.run("cat", here.path(path), status=1)
        assert "Permission denied" in done.stderr


def test_the_command_line(net: Net) -> None:
    here = net["n1"]
    lines = here.sh("cloudfs net").splitlines()
    assert lines[0].split()[:3] == ["NODE", "LATENCY", "±"]
    assert {line.split()[0] for line in lines[1:]} == {"n2", "n3"}
    assert all("ms" in line and " measured " in line for line in lines[1:])
    rows = json.loads(here.sh("cloudfs net --json"))
    assert 0 < rows[0]["latency"]["value"] <= rows[1]["latency"]["value"]
    said = here.sh("cloudfs net probe n2 --count 5")
    assert re.fullmatch(r"n2: [0-9.]+ms ± [0-9.]+ms, jitter [0-9.]+ms, loss [0-9.]+%\n", said)
    assert "no node 'n9'" in here.run("cloudfs", "net", "probe", "n9", status=1).stderr
    assert "no node's name" in here.run("cloudfs", "net", "probe", "a/b", status=1).stderr
    script = here.sh("cloudfs -x net; cloudfs -x net probe n2 -c 2")
    assert here.sh(script).count(" measured ") == 2


def test_a_directory_of_another_node(net: Net) -> None:
    assert "n3" in net["n1"].ls("nodes/n2/net")
    there = table(net["n1"], "nodes/n2/net/latency")
    assert set(there) == {"n1", "n3"}


def test_a_node_that_dies_keeps_its_last_values(net: Net) -> None:
    here = net["n1"]
    eventually(lambda: all_measured(net), AGREE)
    net["n3"].kill()
    eventually(lambda: expect(here.status("nodes/n3/status")["state"], "gone"), GONE)
    first = here.status("net/n3/latency")
    assert first["how"] == "measured"

    def older() -> None:
        now = here.status("net/n3/latency")
        expect(now["value"], first["value"])
        assert float(now["age"]) > float(first["age"]) + 2

    eventually(older, AGREE)
    assert "n3 is gone" in here.refused("probe", "net/n3/ctl")
    assert list(table(here, "net/near")) == ["n2"]
