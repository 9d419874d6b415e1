"""find, net top, and the files that they read."""

from __future__ import annotations

import pytest

from cloudfs import ndb
from cloudfs.cli import net
from cloudfs.cli.files import Files
from tests.persons import Session

LATENCY = """\
far                            0.250000      12.0 predicted       0.050000
n2                             0.000350       1.0 measured        0.000010
'n 3'                          0.012300     100.0 measured        0.000100
"""
BANDWIDTH = "n2   11000000   3.0 measured   500000\n"
LOSS = "n2   0.0250   1.0 measured   0.0100\nlost 1.0000 1.0 measured 0.1\n"


class Tables(Files):
    def read(self, path: str) -> str:
        return {"net/latency": LATENCY, "net/bandwidth": BANDWIDTH, "net/loss": LOSS}[path]


def test_the_picture() -> None:
    head, empty, *lines = net.picture(Tables())
    assert head == "3 nodes, 2 measured and the others predicted"
    assert not empty
    assert [line.split() for line in lines] == [
        ["NODE", "LATENCY", "±", "HOW", "AGE", "LOSS", "BANDWIDTH"],
        ["n2", "0.35ms", "0.01ms", "measured", "1.0s", "2.5%", "88Mbit/s"],
        ["n", "3", "12.3ms", "0.10ms", "measured", "2m", "-", "-"],
        ["far", "250.0ms", "50.0ms", "predicted", "12s", "-", "-"],
        ["lost", "-", "-", "-", "-", "100.0%", "-"],
    ]


def test_find(cloud: Session) -> None:
    (line,) = cloud.cloudfs("find", "cpus>=1", "sort=load").stdout.splitlines()
    found = ndb.parse(line)
    assert list(found) == ["node", "cpus", "load", "age"]
    told = cloud.sh(cloud.cloudfs("-x", "find", "cpus>=1", "sort=-load").stdout)
    assert ndb.parse(told)["node"] == found["node"]
    assert not cloud.cloudfs("find", "cpus>=100000").stdout
    for wrong, why in (("cpus>=4GB", "write: cpus>=4e9"), ("color=red", "no node has")):
        assert why in cloud.cloudfs("find", wrong, status=1).stderr
    assert "nodes, 0 measured" in cloud.cloudfs("net", "top").stdout


@pytest.mark.one_person
def test_queries_in_a_shell(cloud: Session) -> None:
    name = cloud.cloudfs("find", "cpus>=1").stdout.split()[0].removeprefix("node=")
    at = f"{cloud.mount}/query"
    assert cloud.sh(f"ls {at}") == ""
    assert cloud.sh(f"ls '{at}/cpus>=1/mem.free>1'").split() == [name]
    assert f"name={name} " in cloud.sh(f"cat {at}/sort=load/*/status")
    assert cloud.sh(f"ls '{at}/cpus>=100000'") == ""
    assert "near=NODE" in cloud.sh(f"cat {at}/help")
    cloud.sh(f"ls '{at}/cpus>=4/cpus<2'", status=2)
    assert "no node can have both cpus>=4 and cpus<2" in cloud.cloudfs("why").stdout
    cloud.sh(f"ls {at}/cpus=nobody/x", status=2)
    assert cloud.sh(f"tar cf - -C {cloud.mount} query | tar tf -").split() == ["query/"]


@pytest.mark.one_person
def test_a_conversation_in_a_shell(cloud: Session) -> None:
    cs = f"{cloud.mount}/net/cs"
    assert "near NODE" in cloud.sh(f"cat {cs}")
    text = cloud.sh(f"exec 3<>{cs}; echo 'query cpus>=1 sort=load' >&3; cat <&3; echo end")
    line, end = text.splitlines()
    assert ndb.parse(line)["cpus"]
    assert end == "end"
    twice = cloud.sh(f"exec 3<>{cs}; for n in 1 2; do echo 'query cpus>=1' >&3; cat <&3; done")
    assert twice.count("node=") == 2
    cloud.sh(f"exec 3<>{cs}; echo 'near nobody' >&3", status=1)
    assert "there is no node nobody" in cloud.cloudfs("why").stdout
    cloud.sh(f"exec 3<>{cs}; printf 'query %010000d' 1 >&3", status=1)
    assert "at most 4096 bytes" in cloud.cloudfs("why").stdout
    assert cloud.sh(f"head -c 5 {cloud.mount}/net/map.svg") == "<svg "
