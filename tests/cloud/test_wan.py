"""Long, lossy and slow links: what they are told is what programs see."""

from __future__ import annotations

import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.node.machines import Machines
from cloudfs.node.wan import example
from tests.cloud.links import Links, address, links, waiting
from tests.cloud.net import Net, eventually, expect
from tests.cloud.test_links import between
from tests.cloud.test_net import left
from tests.cloud.views import settle

NAMES = ["n1", "n2", "n3"]


BUSY = 30.0  # seconds for which a machine may be too busy to be punctual


@pytest.fixture(scope="module")
def wired() -> Iterator[Links]:
    """Three nodes without daemons."""
    with Net(len(NAMES), start=False, wan=True) as net, links(net) as found:
        yield found


@pytest.fixture(autouse=True)
def short(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "wired" in request.fixturenames:
        net = request.getfixturevalue("wired").net
        for a, b in [("n1", "n2"), ("n1", "n3"), ("n2", "n3")]:
            net.link(a, b, delay=0, jitter=0, loss=0, rate=0)


def round_trips(wired: Links, a: str, b: str, count: int = 40, *, tell: bool = True) -> list[float]:
    """Seconds until a datagram has been there and back, the shortest first."""
    there, back = wired.udp[a], wired.udp[b]
    times = []
    for one in (there, back):
        one.settimeout(5)
    for _ in range(count):
        start = time.perf_counter()
        there.sendto(b"there", (address(wired.net, b), 7))
        back.recv(10)
        back.sendto(b"back", (address(wired.net, a), 7))
        there.recv(10)
        times.append(time.perf_counter() - start)
    for one in (there, back):
        one.setblocking(False)
    if tell:
        print(
            f"{a} {b}: least {min(times) * 1e3:.2f}, median {statistics.median(times) * 1e3:.2f} ms"
        )
    return sorted(times)


def bit_rate(wired: Links, a: str, b: str, size: int, *, tell: bool = True) -> float:
    """bit/s of a TCP transfer of so many bytes, as its receiver sees it."""
    pair = wired.connect(a, b)
    assert pair is not None
    caller, called = pair
    called.settimeout(30)
    caller.settimeout(30)
    sender = Thread(target=caller.sendall, args=(bytes(size),))
    with caller, called:
        sender.start()
        got = len(called.recv(1 << 16))
        start = time.perf_counter()
        left_over = size - got
        while got < size:
            got += len(called.recv(1 << 18))
        seconds = time.perf_counter() - start
        sender.join()
    if tell:
        print(f"{a} {b}: {left_over * 8 / seconds / 1e6:.1f} Mbit/s")
    return left_over * 8 / seconds


def takes(wired: Links, a: str, b: str, delay: float, count: int = 10) -> None:
    """A datagram there and back takes so many seconds: none is early, and the quickest of many
    is hardly late, unless the machine is busy for seconds."""

    def quickest() -> None:
        least = round_trips(wired, a, b, count)[0]
        late.append(least - delay)
        assert late[-1] < 0.001, f"{late[-1] * 1e3:.2f} ms late"

    late: list[float] = []
    eventually(quickest, BUSY)
    assert min(late) >= 0


# --- the links ------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0005, 0.01, 0.1])
def test_delay(wired: Links, delay: float) -> None:
    wired.net.link("n1", "n2", delay=delay)
    takes(wired, "n1", "n2", 2 * delay, 10 if delay > 0.05 else 40)
    takes(wired, "n1", "n3", 0.0)


def test_each_way_has_its_own(wired: Links) -> None:
    wired.net.link("n1", "n2", delay=0.03, both=False)
    takes(wired, "n1", "n2", 0.03)
    wired.net.link("n2", "n1", delay=0.01, both=False)
    takes(wired, "n1", "n2", 0.04)
    wired.net.link("n1", "n2", loss=1, both=False)
    assert wired.ways() == between("n1 n2 n3") - {("n1", "n2")}


def test_it_changes_while_it_runs(wired: Links) -> None:
    for delay in (0.01, 0.1, 0.01):
        wired.net.link("n1", "n2", delay=delay)
        takes(wired, "n1", "n2", 2 * delay, 5)


def test_jitter_delays_and_keeps_the_order(wired: Links) -> None:
    wired.net.link("n1", "n2", delay=0.005, jitter=0.02, both=False)

    def spread() -> None:
        times = round_trips(wired, "n1", "n2", 60)
        assert 0.005 <= times[0] < 0.008
        assert 0.01 < statistics.median(times) < 0.02

    eventually(spread, BUSY)
    for number in range(200):
        wired.udp["n1"].sendto(b"%d" % number, (address(wired.net, "n2"), 7))
    time.sleep(0.1)
    assert [int(waiting(wired.udp["n2"]) or -1) for _ in range(200)] == list(range(200))
    assert waiting(wired.udp["n2"]) is None


def test_loss(wired: Links) -> None:
    wired.net.link("n1", "n2", loss=0.2, both=False)
    got = 0
    for _ in range(40):
        for _ in range(50):
            wired.udp["n1"].sendto(b"x", (address(wired.net, "n2"), 7))
        time.sleep(0.01)
        while waiting(wired.udp["n2"]) is not None:
            got += 1
    time.sleep(0.1)
    while waiting(wired.udp["n2"]) is not None:
        got += 1
    print(f"{got} of 2000 arrived")
    assert 1600 - 90 < got < 1600 + 90  # five deviations
    back = wired.ways()
    assert {("n2", "n1"), ("n1", "n3")} <= back


@pytest.mark.parametrize(("rate", "size"), [(1e7, 2 << 20), (1e8, 16 << 20), (5e8, 64 << 20)])
def test_rate(wired: Links, rate: float, size: int) -> None:
    wired.net.link("n1", "n2", rate=rate, delay=0.001)
    found: list[float] = []

    def carries(a: str, b: str) -> None:
        found.append(bit_rate(wired, a, b, size))
        assert found[-1] > 0.8 * rate, f"{found[-1] / 1e6:.1f} Mbit/s"

    eventually(lambda: carries("n1", "n2"), BUSY)
    eventually(lambda: carries("n2", "n1"), BUSY)
    assert max(found) < 1.02 * rate


def test_what_the_queue_does_not_hold_is_lost(wired: Links) -> None:
    wired.net.link("n1", "n2", rate=1e6, queue=10_000, both=False)
    counts: list[int] = []

    def burst() -> None:
        for _ in range(50):
            wired.udp["n1"].sendto(bytes(1000), (address(wired.net, "n2"), 7))
        time.sleep(0.5)
        counts.append(0)
        while waiting(wired.udp["n2"]) is not None:
            counts[-1] += 1
        assert counts[-1] <= 12, counts[-1]  # one more for each 8 ms that sending took longer

    eventually(burst, BUSY)
    assert min(counts) >= 10


def test_a_cut_link_is_cut_however_long_it_is(wired: Links) -> None:
    wired.net.link("n1", "n2", delay=0.02)
    wired.net.partition("n1 n3", "n2")
    assert wired.ways() == between("n1 n3")
    wired.net.heal()
    assert wired.ways() == between("n1 n2 n3")


def test_a_matrix_shapes_all(wired: Links) -> None:
    wired.net.machines.wan.shape([[0, 0.01, 0.02], [0.01, 0, 0.03], [0.02, 0.03, 0]])
    for a, b, trip in [("n1", "n2", 0.01), ("n3", "n1", 0.02), ("n2", "n3", 0.03)]:
        takes(wired, a, b, trip)


def test_another_program_can_change_a_link(wired: Links) -> None:
    words = [sys.executable, "-m", "cloudfs.node.wan", wired.net.machines.tag, "n1", "n2"]
    subprocess.run([*words, "delay=0.02"], check=True, timeout=20)
    subprocess.run([*words, "loss=0"], check=True, timeout=20)  # the delay stays
    takes(wired, "n1", "n2", 0.04, 5)
    for bad in ("delay=x", "delay=100", "speed=1", "delay=-1"):
        done = subprocess.run([*words, bad], capture_output=True, text=True, timeout=20)
        assert done.returncode == 1
        assert done.stderr.startswith("wan: ")
    takes(wired, "n1", "n2", 0.04, 5)


def test_no_link_leads_to_nobody(wired: Links) -> None:
    with pytest.raises(CloudError, match="n9: no such port"):
        wired.net.link("n1", "n9", delay=1)
    wired.udp["n1"].setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    wired.udp["n1"].sendto(b"all", ("10.77.255.255", 7))  # nobody hears it
    assert wired.ways() == between("n1 n2 n3")


# --- taken away -----------------------------------------------------------------------


OWNER = """
import sys
from cloudfs.node.machines import Machines
from cloudfs.node.wan import example
with Machines(["m1", "m2"], wan=True) as made:
    made.wan.link("m1", "m2", delay=0.1)
    print(made.tag, made.base, flush=True)
    sys.stdin.read()
"""


def test_the_links_go_with_their_owner() -> None:
    command = [sys.executable, "-c", OWNER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=Path(__file__).parents[2], **pipes) as owner:  # type: ignore[call-overload]
        tag, base = owner.stdout.readline().split()
        assert any("/bin/wan-" in text for text in left(tag, Path(base), "-"))
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    try:
        eventually(
            lambda: expect([x for x in left(tag, Path(base), base) if "/bin/wan-" in x], []), 10
        )
    finally:
        with Machines(["m1"], wan=True):  # the next one
            assert left(tag, Path(base), base) == []
    assert left(tag, Path(base), base) == []


# --- what nodes measure of it -----------------------------------------------------------

RATES = [1e7, 1e8, 5e8]  # bit/s


@pytest.fixture(scope="module")
def nodes() -> Iterator[Net]:
    """Two nodes far from each other."""
    with Net(2, wan=True) as net:
        net.link("n1", "n2", delay=0.01)
        yield settle(net)


def figure(net: Net, name: str, node: str = "n2") -> list[str]:
    """What n1's table of that name says of a node: value, age, how, error."""
    for line in net["n1"].read("net", name).splitlines():
        if line.split()[0] == node:
            return line.split()[1:]
    raise AssertionError(f"the table {name} has no row of {node}")


def says(net: Net, trip: float) -> None:
    """The table's latency is that of the link, within 5 % or 0.5 ms."""
    value, age, how, _ = figure(net, "latency")
    assert how == "measured"
    assert abs(float(value) - trip) <= max(0.05 * trip, 0.0005), (
        f"{value} after {age} s, not {trip}"
    )


def sent(net: Net) -> int:
    """Bytes that both nodes have sent over their interfaces."""
    total = 0
    for text in net.each(lambda node: node.sh("cat /proc/net/dev")).values():
        (line,) = (line for line in text.splitlines() if "eth0:" in line)
        total += int(line.partition(":")[2].split()[8])
    return total


def probe_bandwidth(net: Net) -> dict[str, str]:
    """Measure the way from n1 to n2, once that may be done again."""

    def probe() -> None:
        done = net["n1"].run(
            "sh",
            "-c",
            'echo probe bandwidth >"$0"',
            net["n1"].path("net/n2/ctl"),
            status=None,
            seconds=30,
        )
        assert done.returncode == 0, f"{done.stderr}{net['n1'].sh('cloudfs why')}"

    eventually(probe, 30, every=1.0)
    return net["n1"].status("net/n2/bandwidth")


def right(found: dict[str, str], rate: float) -> None:
    for value in (found["value"], found["back"]):
        assert float(value) * 8 == pytest.approx(rate, rel=0.2)


def test_latency_and_a_change_of_it_are_seen(nodes: Net) -> None:
    eventually(lambda: says(nodes, 0.02), 30)
    nodes.link("n1", "n2", delay=0.1)
    start = time.monotonic()
    eventually(lambda: says(nodes, 0.2), BUSY)
    print(f"20 to 200 ms: seen after {time.monotonic() - start:.1f} s")
    nodes.link("n1", "n2", delay=0.01)
    eventually(lambda: says(nodes, 0.02), BUSY)


def test_bandwidth_is_measured_with_less_than_a_megabyte(nodes: Net) -> None:
    nodes.link("n1", "n2", rate=1e8)
    before = sent(nodes)
    found = probe_bandwidth(nodes)
    spent = sent(nodes) - before
    print(f"100 Mbit/s: {ndb.record(found)}, {spent} bytes")
    right(found, 1e8)
    assert 3e5 < spent < 1e6
    refused = nodes["n1"].refused("probe bandwidth", "net/n2/ctl")
    assert "just now" in refused


def test_what_is_read_in_bulk_tells_what_the_way_carries(nodes: Net) -> None:
    nodes.link("n1", "n2", rate=4e7, delay=0.001)
    id = nodes["n1"].begin("head -c 16000000 /dev/zero; echo end >&2")
    eventually(lambda: expect(nodes["n1"].read("proc", id, "stderr"), "end\n"), 10)
    name = nodes["n2"].path("nodes/n1/proc", id, "stdout")
    assert int(nodes["n2"].sh(f"cat {name} | wc -c", seconds=30)) == 16_000_000
    found = nodes["n2"].status("net/n1/bandwidth")  # which measured nothing by itself
    print(f"40 Mbit/s, by reading: {ndb.record(found)}")
    # Bytes of files, without what TLS and TCP add.
    assert 0.5 * 4e7 < float(found["back"]) * 8 < 1.05 * 4e7
    assert "value" not in found


@pytest.mark.parametrize("trip", [0.001, 0.02, 0.1])
def test_bandwidths_of_all_links(nodes: Net, trip: float) -> None:
    for rate in RATES:
        nodes.link("n1", "n2", rate=rate, delay=trip / 2)
        found = probe_bandwidth(nodes)
        print(f"{rate / 1e6:g} Mbit/s, {trip * 1e3:g} ms: {ndb.record(found)}")
        right(found, rate)


def test_latencies_of_a_matrix(make_net: Callable[..., Net]) -> None:
    """Six towns: each says of each what lies between them."""
    net = make_net(6, wan=True)
    trips = example(6)
    net.machines.wan.shape(trips)

    def all_right() -> None:
        for a, node in enumerate(net):
            lines = map(str.split, node.read("net/latency").splitlines())
            rows = {name: rest for name, *rest in lines}
            expect(len(rows), 5, f"rows of {node.name}")
            for b, other in enumerate(net.all):
                if a != b:
                    value, _, how, _ = rows[other]
                    expect(how, "measured")
                    assert abs(float(value) - trips[a][b]) <= max(0.05 * trips[a][b], 0.0005), (
                        f"{node.name} {other}: {value}, not {trips[a][b]}"
                    )

    eventually(all_right, 60, every=1.0)


def test_only_nodes_get_keys_for_trains(nodes: Net) -> None:
    done = nodes["n1"].run("cat", nodes["n1"].path("nodes/n1/net/train"), status=1)
    assert "ermission denied" in done.stderr
    assert "only other nodes" in nodes["n1"].sh("cloudfs why")
    done = nodes["n1"].run("cat", nodes["n1"].path("nodes/n2/net/train"), status=1)
    assert "ermission denied" in done.stderr  # a user of a node is no node
    assert "train" not in nodes["n1"].ls("nodes/n1/net")
