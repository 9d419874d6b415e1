"""The zones of large clouds in virtual time, with the real cores.

    python -m tests.sim.zones                  # 100, 1,000 and 10,000 nodes
    python -m tests.sim.zones 100 500          # these sizes
    python -m tests.sim.zones 10000 --clusters 400    # or 1
    python -m tests.sim.zones --stand          # nobody is killed, nobody comes

For each size: a cloud that has formed stands for half a minute, then 20 nodes (or a tenth) are
killed at once, among them delegates, and 20 come.  What is printed for a node must not grow
faster than the logarithm of the number of nodes; the last line says whether it does.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable

from cloudfs import ndb
from cloudfs.kernel import zones
from cloudfs.kernel.zones import ROOT
from tests.sim.net import Net, Node
from tests.sim.table import Load, Result, costs, figures, show, table

SETTLE = 70.0  # seconds until all that was told of the cloud's forming has been told again,
STAND = 120.0  # and over which bytes are then counted: as long as a leaf's digest takes to go up whole again


def halved(
    all: list[str], zone: str, most: int, half: Callable[[str, str], str]
) -> dict[str, list[str]]:
    """The zones into which one with all of them would have split."""
    found: dict[str, list[str]] = {}
    todo = [(zone, all)]
    while todo:
        zone, some = todo.pop()
        if len(some) <= most:
            found[zone] = some
            continue
        for part in sorted({half(zone, one) for one in some}):
            todo.append((part, [one for one in some if half(zone, one) == part]))
    return found


def leaves_of(names: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """The leaves into which so many nodes (name, cluster) would have split."""
    found: dict[str, list[tuple[str, str]]] = {}
    clusters: dict[str, list[str]] = {}
    for name, cluster in names:
        clusters.setdefault(cluster, []).append(name)
    for cluster, some in clusters.items():
        for leaf, mates in halved(some, cluster, zones.MOST, zones.narrower).items():
            found[leaf] = [(name, cluster) for name in mates]
    return found


def stands_of(clusters: list[str]) -> dict[str, str]:
    """Where so many clusters would stand."""

    def half(group: str, cluster: str) -> str:
        return zones.join("", zones.bits(cluster)[: len(zones.parts(group)[1]) + 1])

    groups = halved(clusters, ROOT, zones.MOST // zones.WEIGHT, half)
    return {cluster: group for group, some in groups.items() for cluster in some}


def form(net: Net, count: int, clusters: int = 0) -> list[Node]:
    """A cloud whose nodes know their leaves already, as after a while of joining."""
    clusters = clusters or max(2, min(16, count // 600))
    names = [(f"n{n}", f"c{n % clusters}") for n in range(count)]
    leaves = leaves_of(names)
    stands = stands_of([f"c{n}" for n in range(clusters)])
    standing = {
        leaf: zones.delegates(leaf, [name for name, _ in pairs]) for leaf, pairs in leaves.items()
    }
    doors: dict[str, list[str]] = {}  # members of each zone above the leaves
    below = set(leaves)
    while below - {ROOT}:
        deepest = max(below, key=zones.depth)
        above = zones.parent(deepest, stands.get(deepest, ROOT)) or ROOT
        children = [
            zone for zone in below if zone and zones.parent(zone, stands.get(zone, ROOT)) == above
        ]
        doors[above] = [name for zone in children for name in standing[zone]]
        standing[above] = zones.delegates(above, doors[above])
        below = below - set(children) | {above}
    nodes = []
    for leaf, pairs in leaves.items():
        mates = [name for name, _ in pairs]
        for name, cluster in pairs:
            node = net.start(
                name, cluster, [f"{net.random.choice(names)[0]}:5640"], **attributes(net.random)
            )
            stand = stands[cluster]
            lines = [f"node=x leaf={leaf} nodes={len(pairs)}"]
            lines.append(ndb.record({"enter": leaf, "stand": stand}))
            near = [(leaf, mate) for mate in zones.rank(leaf, mates)[:3]]
            path = zones.path(leaf, stand)[1:]
            near += [(above, door) for above in path for door in doors[above][:4]]
            lines += [f"peer={peer} zone={zone} addr={peer}:5640" for zone, peer in near]
            text = "\n".join(lines)
            net.later(
                net.random.random() * 1.5,  # sooner than one who knows nobody founds a leaf
                lambda n=node, t=text: net._do(n, n.member.introduced(t, n.now)),
            )
            nodes.append(node)
    return nodes


def attributes(rng: random.Random) -> dict[str, object]:
    """What a node tells of itself, as Machine.attributes gives it."""
    return {
        "arch": rng.choice(["x86_64", "x86_64", "aarch64"]),
        "version": "0.1.0",
        "cpus": rng.choice([2, 4, 8, 64]),
        "load": round(rng.random() * 4, 2),
        "cpu.idle": round(rng.random() * 8, 3),
        "mem.total": rng.choice([4, 16, 256]) * 10**9,
        "mem.free": rng.randrange(10**9, 4 * 10**9),
        "disk.free": rng.randrange(10**10, 10**12),
        "price": 0.02,
        "label.rack": f"r{rng.randrange(40)}",
    }


def work(net: Net, nodes: list[Node]) -> None:
    """Loads change: each node is measured anew every 10 s."""

    def measure(node: Node) -> None:
        if node.up:
            load = {
                "load": round(net.random.random() * 4, 2),
                "mem.free": net.random.randrange(10**9, 4 * 10**9),
            }
            net._do(node, node.member.set_record({**node.member.own, **load}, node.now))
            net.later(10.0, lambda: measure(node))

    for node in nodes:
        net.later(net.random.random() * 10, lambda n=node: measure(n))


def counted(nodes: list[Node]) -> Counter[int | None]:
    """How many nodes the root's digest has, by the nodes that ask."""
    found: Counter[int | None] = Counter()
    for node in nodes:
        if node.up:
            found[node.member.count(ROOT, node.now)] += 1
    return found


def at_root(nodes: list[Node], count: int) -> bool:
    """Whether all members of the root zone count so many nodes."""
    there = [n for n in nodes if n.up and n.member.rosters.get(ROOT)]
    return bool(there) and all(n.member.size(ROOT, n.now)[0] == count for n in there)


def stand(count: int, clusters: int = 0, seed: int = 1) -> tuple[Net, list[Node], Load, float]:
    """A cloud that has formed, what its nodes paid while it stood, and in how many seconds
    the root's digest counted all of them."""
    net = Net(seed)
    nodes = form(net, count, clusters)
    formed = net.until(lambda: at_root(nodes, count), 120, 1.0)
    work(net, nodes)
    net.run(SETTLE)
    for node in nodes:
        node.sent = node.received = node.messages = node.heard = 0
    net.run(STAND)
    load = Load(
        count,
        figures([n.sent / STAND for n in nodes]),
        figures([n.received / STAND for n in nodes]),
        figures([n.messages / STAND for n in nodes]),
        figures([n.heard / STAND for n in nodes]),
        memory(net, nodes),
        max(len(s.peers) + 1 for n in nodes for s in n.sessions.values()),
    )
    return net, nodes, load, formed


def memory(net: Net, nodes: list[Node]) -> list[float]:
    """Bytes of cores: mean and 99th percentile of some drawn at random, and the most, which is
    sought among those in the most zones as well."""
    up = [node for node in nodes if node.up]
    sample = [float(deep_size(node)) for node in net.random.sample(up, min(len(up), 60))]
    high = sorted(up, key=lambda node: -sum(len(s.peers) for s in node.sessions.values()))
    return [*figures(sample)[:2], max(sample + [float(deep_size(node)) for node in high[:60]])]


def simulate(count: int, clusters: int = 0, seed: int = 1) -> Result:
    """Run one size."""
    begin = time.monotonic()
    gc.disable()  # nothing here goes in circles; the collector would walk all nodes again and again
    net, nodes, load, formed = stand(count, clusters, seed)
    leaves = {n.member.leaf or "": n.member.stand for n in nodes}

    few = min(20, count // 10)
    victims = [n for n in nodes if len(n.member.rosters) > 1][: few // 4]
    victims += net.random.sample([n for n in nodes if n not in victims], few - len(victims))
    died = net.now
    for victim in victims:
        net.kill(victim)
    gone_root = net.until(lambda: at_root(nodes, count - few), 60)
    net.run(max(0.0, died + 15 - net.now))
    gone = last_known(nodes, victims, died)

    came = net.now
    seeds = [n.member.address for n in nodes if n.up]
    for n in range(few):
        net.later(n * 0.1, lambda n=n: nodes.append(_join(net, f"late{n}", seeds)))
    joined_root = net.until(lambda: at_root(nodes, count), 90)
    net.until(lambda: counted(nodes)[count] >= 0.99 * count, 120, 2.0)
    joined_all = net.now - came
    gc.enable()
    return Result(
        load,
        len({n.member.cluster for n in nodes}),
        len(leaves),
        max(len(zones.path(leaf, stand)) for leaf, stand in leaves.items()),
        formed,
        [statistics.median(gone), max(gone)],
        gone_root,
        joined_root,
        joined_all,
        time.monotonic() - begin,
    )


def _join(net: Net, name: str, seeds: list[str]) -> Node:
    cluster = net.nodes["n0"].member.cluster
    return net.start(name, cluster, net.random.sample(seeds, 3), **attributes(net.random))


def last_known(nodes: list[Node], victims: list[Node], died: float) -> list[float]:
    """For each death the seconds until the last node of its leaf took it for gone."""
    found = []
    for victim in victims:
        mates = [n for n in nodes if n.up and n.member.leaf == victim.member.leaf]
        times = [
            next((at for at, e in n.events if e.node == victim.name and e.new == "gone"), math.inf)
            for n in mates
        ]
        found.append(max(times, default=died) - died)
    return found


def deep_size(node: Node) -> int:
    """Bytes of one core, all it refers to included."""
    seen: set[int] = set()
    todo: list[object] = [node.member]
    total = 0
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | random.Random) or callable(thing):
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing)
        todo += gc.get_referents(thing)
    return total


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m tests.sim.zones")
    parser.add_argument("nodes", nargs="*", type=int, default=[100, 1000, 10000])
    parser.add_argument("--clusters", type=int, default=0, help="of about 600 nodes, if not given")
    parser.add_argument("--stand", action="store_true", help="only what a standing cloud costs")
    given = parser.parse_args(words)
    gc.disable()  # see simulate
    results: list[Result] = []
    loads: list[Load] = []
    for count in given.nodes:
        begin = time.monotonic()
        if given.stand:
            loads.append(stand(count, given.clusters)[2])
        else:
            results.append(simulate(count, given.clusters))
        print(f"{count:,} nodes: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        print(table(loads, costs(loads)) if given.stand else show(results), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
