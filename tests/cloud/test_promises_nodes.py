"""DESIGN 6 with real nodes: a place in the cloud is got by a join file and lost at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from cloudfs import ndb
from cloudfs.credentials import age_of_renewal
from tests.cloud.machine import Machine
from tests.cloud.net import Net, always, eventually, expect
from tests.cloud.views import AGREE, GONE, JOIN, all_up, view

MakeNet = Callable[..., Net]

DUE = 30.0  # seconds after which a certificate is to be renewed in the test of that


def test_a_node_joins_with_the_join_file_only(make_net: MakeNet) -> None:
    net = make_net(3, start=False)
    n1, n2, new = net
    for name in ("root.crt", "node.crt", "node.key", "cluster.key"):
        (new.local.state / name).unlink()
    n1.start()
    n2.start()
    new.local.launch()
    new.local.wait(time.monotonic() + JOIN)
    eventually(lambda: all_up(net, [n1, n2]), JOIN)
    record = new.status("nodes/n3/status")
    expect(record["state"], "alone")
    assert "type cloudfs init, or cloudfs join FILE" in record["why"]
    assert not list(new.local.state.glob("*.key"))

    file = new.local.state.parent / "join"
    file.write_text(n1.sh("cloudfs invite --for 1h"))
    edited = file.with_name("edited")
    edited.write_text(file.read_text().replace("uses=1", "uses=7"))
    assert "was changed" in new.run("cloudfs", "join", str(edited), status=1, seconds=30).stderr
    new.run("cloudfs", "join", str(file), seconds=30)
    eventually(lambda: all_up(net, net), JOIN)
    cert = new.status("nodes/n3/cert")
    expect((cert["cloud"], cert["cluster"], cert["issuer"]), ("local", n1.cluster, "no"))
    expect(n2.read("nodes/n3/cluster"), f"{n1.cluster}\n")
    # What a shell does is the same; the file is used up.
    line = f"sed 's/^/join /' {file} > $cloud/nodes/n3/ctl"
    new.run("cloudfs", "leave")
    new.run("sh", "-c", line, seconds=30)  # the same node with the same key may
    eventually(lambda: all_up(net, net), JOIN)

    # It is in its cloud again after a restart, without the file.
    file.unlink()
    new.local.cluster = n1.cluster
    new.restart()
    eventually(lambda: all_up(net, net), JOIN)


def test_certificates_are_renewed_by_themselves_and_nobody_notices(make_net: MakeNet) -> None:
    """One gets old while it follows something, and one ran out while its node was off."""
    net = make_net({"east": "n1 n2 n3"}, start=False)
    n1, due, late = net
    begun = time.time()
    net.rename(due, "n2", begun - age_of_renewal("n2") + DUE)
    net.rename(late, "n3", begun - 100 * 3600)
    n1.start()
    id = n1.begin("i=0; while :; do echo $i; i=$((i + 1)); sleep 0.1; done")
    due.start()
    late.start()
    eventually(lambda: all_up(net, net), JOIN)
    assert int(due.status("nodes/n2/cert")["made"]) < begun - 3600
    seconds = begun + DUE + 12 - time.time()
    follow = f"timeout {seconds:.0f} cat $cloud/.follow/proc/{id}/stdout || true"
    lines = due.sh(follow, seconds=seconds + 10).split()
    assert lines == [str(number) for number in range(len(lines))]
    assert len(lines) > 50

    def renewed() -> None:
        for node in (due, late):
            cert = node.status("nodes", node.name, "cert")
            assert int(cert["made"]) >= int(begun), cert

    eventually(renewed, JOIN)
    expect(missed(net), set())


def out(node: Machine, name: str) -> None:
    """A node holds another for gone, and does not reach it."""
    expect(view(node).get(name), "gone", f"{name} as {node.name} sees it")
    assert node.run("cat", node.path("nodes", name, "load"), status=None).returncode


def missed(nodes: Iterable[Machine]) -> set[str]:
    """Whom they ever held for gone."""
    found = set()
    for node in nodes:
        for line in node.read("events").splitlines():
            if "state=gone" in line:
                found.add(ndb.parse(line.partition(" ")[2])["node"])
    return found


def test_revocation_holds_within_10_s_where_connected_and_as_soon_as_it_is(
    make_net: MakeNet,
) -> None:
    net = make_net({"east": "n1 n2 n3 n4"})
    n1, n2, n3, bad = net
    eventually(lambda: all_up(net, net), JOIN)
    for node in (n1, n2, n3):
        node.read("nodes/n4/load")
        bad.read("nodes", node.name, "load")

    n2.run("cloudfs", "node", "revoke", "n4", seconds=30)  # which writes to the issuer's ctl
    eventually(lambda: [out(node, "n4") for node in (n1, n2, n3)], GONE)
    assert "node=n4" in n3.read("nodes/n3/revoked")
    record = bad.status("nodes/n4/status")
    expect(record["state"], "alone")
    assert "node n4 was revoked" in record["why"]
    for node in (n1, n2, n3):
        assert bad.run("cat", bad.path("nodes", node.name, "load"), status=None).returncode
    expect(missed([n1, n2, n3]), {"n4"})  # the others were never missed
    bad.restart()
    n3.restart()
    eventually(lambda: all_up(net, [n1, n2, n3]), JOIN)
    always(lambda: expect("alive" in view(n3).get("n4", ""), False), 3)
    assert "node=n4" in n3.read("nodes/n3/revoked")

    # Who was not connected hears of it when it is.
    net.partition("n1 n2")
    n1.run("cloudfs", "node", "revoke", "n2")
    assert "node=n2" not in n3.read("nodes/n3/revoked")
    net.heal()
    eventually(lambda: out(n3, "n2"), AGREE + GONE)
    eventually(lambda: all_up(net, [n1, n3]), JOIN)
