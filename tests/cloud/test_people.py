"""Users of a real cloud: made on one node, known on all; keys come back with nodes lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect
from tests.cloud.views import AGREE, JOIN, SILENT, all_up, settle

MakeNet = Callable[..., Net]

PASSWORD = "sesame-sesame"
KNOWN = AGREE  # seconds until a new user is known everywhere, also after a partition

# What `cloudfs login` does with it; prints how many keys came, and what the user is told.
GET = """
import sys
from cloudfs.cli import Options, secstore
from cloudfs.cli.files import open_files
from cloudfs.errors import CloudError
try:
    keys = secstore.get_keys(open_files(Options()), sys.argv[1], sys.stdin.readline().strip(),
                             say=lambda text: print("note:", text))
    print(len(keys), "keys of", sys.argv[1], "ana@local" if "dom=local" in keys[0] else "")
except CloudError as error:
    print(error.kind, error)
"""


def get(node: Machine, user: str, password: str, client: str = "") -> str:
    """What a client at that node gets.  client: another one, that has never been there."""
    home = f"XDG_STATE_HOME={node.local.state.parent}/client{client}"
    done = node.run("env", home, "python3", "-c", GET, user, stdin=f"{password}\n", seconds=20)
    return done.stdout


def known(net: Net, *names: str) -> None:
    """All nodes that run list these users."""
    for node in net:
        if node.runs:
            found = set(node.ls("secstore/users"))
            assert set(names) <= found, f"{node.name} knows {found}"


def holders(node: Machine, user: str) -> list[str]:
    return node.status("secstore/users", user, "status")["holders"].split(",")


def test_users_of_a_cloud(make_net: MakeNet) -> None:
    net = make_net(5)
    settle(net)
    n1, n4 = net["n1"], net["n4"]
    code = n1.run("cloudfs", "user", "add", "ana", stdin=f"{PASSWORD}\n", seconds=20).stdout.strip()
    eventually(lambda: known(net, "ana"), KNOWN)
    add = ("cloudfs", "user", "add", "eve")  # where there is no authority
    assert "no authority" in net["n2"].run(*add, stdin=f"{PASSWORD}\n", status=1).stderr
    expect(sorted(holders(n4, "ana")), sorted(net.all))

    # With the node gone that made her, and one more, her key comes to any other.
    old = sqlite3.connect(net["n2"].local.seen(net["n2"].local.state / "cloudfs.db"))
    (before,) = old.execute("select line from sealed where user = 'ana'").fetchone()
    n1.kill()
    expect(get(n4, "ana", PASSWORD), "1 keys of ana ana@local\n")
    assert get(n4, "ana", "wrong-wrong").startswith("denied the password is wrong")
    net["n5"].kill()
    eventually(lambda: expect(get(net["n3"], "ana", PASSWORD), "1 keys of ana ana@local\n"), JOIN)
    net["n3"].kill()
    few = "unreachable 3 of 5 holders needed, 2 answered"
    eventually(lambda: expect(get(n4, "ana", PASSWORD)[: len(few)], few), JOIN)
    net["n3"].start()
    eventually(lambda: all_up(net, [net["n2"], net["n3"], n4]), JOIN)

    # Strangers guess; her own device gets in, and so does the code.
    for number in range(8):
        said = get(n4, "ana", f"guess number {number}", "stranger")
        if said.startswith("busy"):
            break
        assert said.startswith("denied"), said
    assert said.startswith("busy too many passwords"), said
    expect(get(n4, "ana", PASSWORD), "1 keys of ana ana@local\n")
    n4.run("cloudfs", "user", "recover", "ana", stdin=f"{code}\n{PASSWORD}2\n", seconds=20)
    expect(get(n4, "ana", f"{PASSWORD}2"), "1 keys of ana ana@local\n")

    # A holder that goes back to what it had is seen.
    net["n2"].kill()
    old.execute("update sealed set line = ?, digest = 'old' where user = 'ana'", (before,))
    old.commit()
    old.close()
    net["n2"].start()
    eventually(lambda: all_up(net, [net["n2"], net["n3"], n4]), JOIN)

    def warned() -> None:
        said = get(net["n2"], "ana", f"{PASSWORD}2", "third")
        assert "1 keys of ana" in said
        assert "n2: version 1 of the keys, which is older than 2" in said, said

    eventually(warned, JOIN)


def test_users_made_on_both_sides_of_a_cut(make_net: MakeNet) -> None:
    net = make_net({"east": "n1 n2", "west": "n3 n4"}, start=False)
    net.start()
    settle(net)
    net["n1"].run("cloudfs", "user", "add", "ana", stdin=f"{PASSWORD}\n", seconds=20)
    eventually(lambda: known(net, "ana"), KNOWN)
    net.partition("n1 n2", "n3 n4")
    eventually(lambda: expect(net["n1"].status("nodes/n3/status")["state"], "gone"), SILENT)
    net["n3"].run("cloudfs", "user", "add", "bob", stdin=f"{PASSWORD}\n", seconds=20)
    eventually(lambda: expect("bob" in net["n4"].ls("secstore/users"), True), KNOWN)
    assert "bob" not in net["n1"].ls("secstore/users")
    net.heal()
    eventually(lambda: known(net, "ana", "bob"), 3 * KNOWN)
