"""What nodes measure of links whose length and rate are known.  Root only.

    python -m tests.bench.wan [ROUNDS]

Real nodes in network namespaces, joined by links with a set delay and rate (node/wan.py).
Prints what the links themselves do, as plain sockets see them; then what /cloud/net says of
them.  Medians of ROUNDS, 5 unless told, and the worst.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence

from tests.cloud.links import links
from tests.cloud.net import Net, eventually
from tests.cloud.test_wan import bit_rate, figure, probe_bandwidth, round_trips, says, sent

TRIPS = (0.001, 0.02, 0.1, 0.2)  # seconds there and back
RATES = (1e7, 1e8, 5e8)  # bit/s
SECONDS = 1.0  # of a TCP transfer
SETTLE = 30.0  # seconds for a first figure
SEEN = 15.0  # seconds in which a change must be seen


def off(found: Sequence[float], true: float) -> str:
    """Median and worst deviation, in per cent."""
    errors = sorted(abs(value / true - 1) for value in found)
    return f"{100 * statistics.median(errors):6.2f} {100 * errors[-1]:6.2f}"


def of_links(rounds: int) -> None:
    with Net(2, start=False, wan=True) as net, links(net) as wired:
        print("the links: datagrams there and back by two sockets of one program")
        print("   set ms   least  median     90 %  ms")
        for trip in TRIPS:
            net.link("n1", "n2", delay=trip / 2)
            times = round_trips(wired, "n1", "n2", 200 if trip < 0.05 else 40, tell=False)
            cuts = [times[0], statistics.median(times), times[int(0.9 * len(times))]]
            print(f"{trip * 1e3:9.1f}", *(f"{cut * 1e3:7.2f}" for cut in cuts))
        print("the links: a TCP transfer of a second, 1 ms each way; Mbit/s, median and least")
        for rate in RATES:
            net.link("n1", "n2", delay=0.001, rate=rate)
            size = int(rate / 8 * SECONDS)
            found = [bit_rate(wired, "n1", "n2", size, tell=False) / 1e6 for _ in range(rounds)]
            print(f"{rate / 1e6:9.0f} {statistics.median(found):8.1f} {min(found):8.1f}")


def of_latencies(net: Net, rounds: int) -> None:
    print("net/latency: deviation in %, median and worst; and seconds until a change is seen")
    for trip in TRIPS:
        found = []
        net.link("n1", "n2", delay=trip / 2)
        eventually(lambda trip=trip: says(net, trip), SETTLE)  # type: ignore[misc]
        for _ in range(rounds):
            time.sleep(1)
            found.append(float(figure(net, "latency")[0]))
        print(f"{trip * 1e3:9.1f} ms {off(found, trip)}")
    for before, after in ((0.02, 0.2), (0.2, 0.02)):
        took = []
        for _ in range(rounds):
            net.link("n1", "n2", delay=before / 2)
            eventually(lambda before=before: says(net, before), SETTLE)  # type: ignore[misc]
            time.sleep(12)  # so that the window holds nothing of what was before
            net.link("n1", "n2", delay=after / 2)
            start = time.monotonic()
            eventually(lambda after=after: says(net, after), SEEN)  # type: ignore[misc]
            took.append(time.monotonic() - start)
        line = f"{statistics.median(took):.1f} s, worst {max(took):.1f} s"
        print(f"{before * 1e3:4.0f} to {after * 1e3:3.0f} ms: {line}")


def of_rates(net: Net, rounds: int) -> None:
    print("net/NODE/bandwidth: deviation in %, median and worst, there and back; most bytes sent")
    for trip in TRIPS[:3]:
        for rate in RATES:
            net.link("n1", "n2", delay=trip / 2, rate=rate)
            there, back, spent = [], [], 0
            while len(there) < rounds:
                before = sent(net)
                found = probe_bandwidth(net)
                there.append(float(found["value"]) * 8)
                back.append(float(found["back"]) * 8)
                spent = max(spent, sent(net) - before)
                time.sleep(15 if rate < 5e7 else 2)  # its share of the link
            line = f"{off(there, rate)}   {off(back, rate)} {spent:9d}"
            print(f"{trip * 1e3:6.0f} ms {rate / 1e6:5.0f} Mbit/s {line}", flush=True)


def main(rounds: int = 5) -> None:
    of_links(rounds)
    with Net(2, wan=True) as net:
        of_latencies(net, rounds)
        of_rates(net, rounds)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
