"""/cloud/net: what the network costs, as seen from one node.

The same stands in the node's own tree, so /cloud/nodes/X/net is the network as X sees it; there
other zones are asked for nothing, since whoever looks may be one who was asked.  A node in it is
a directory of plain files: there is no way from one to another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import chart
from cloudfs.kernel.catalog import usable
from cloudfs.kernel.chart import Star
from cloudfs.kernel.demands import unknown
from cloudfs.kernel.figure import Known
from cloudfs.kernel.network import Network
from cloudfs.kernel.query import number
from cloudfs.kernel.verb import Verb, find, help_of, table
from cloudfs.tree import numbers
from cloudfs.tree.api import Cues, Handle, Node, Wait
from cloudfs.tree.files import Ctl, Row, Value
from cloudfs.tree.handles import Text
from cloudfs.tree.probe import Offers, Probe
from cloudfs.tree.space import Attach
from cloudfs.tree.table import File, LiveDir, TableDir
from cloudfs.tree.train import Sessions, Train

SIZES = (0, 10**6, 10**9)  # bytes of which `cost` tells what it takes to move them
AHEAD = (10, 30)  # seconds for which a latency is foretold
DEFAULT = 3  # probes of one `probe`
SECONDS, EACH = 3.0, 0.25  # for a demand, and for each probe of it
TURN = 256  # rows that are made before others get their turn
_START = re.compile(r"start\.([a-z]+)")

DOC = """\
What the network costs, from the node whose directory this is.  A directory for each other
node.  Tables have a node a line: its name, the value, the age of what the value rests on in
seconds, how it was got (measured or predicted), and its standard error.  Nodes of which
nothing is known are left out.  The three nearest: sort -n -k2 latency | head -3
Verbs of ctl:
"""

NODE_DOC = """\
The way from the node whose directory net is to this one.  A record tells the value, its age in
seconds, how it was got and its standard error; a file is empty while nothing is known.
Verbs of ctl:
"""


@dataclass(frozen=True, slots=True)
class Way:
    """What the files of one node's directory are about."""

    network: Network
    node: str


class Net:
    """The directory, at /cloud (`dir`) and in the node's own tree (`own`).

    offers: keys for datagrams, sessions: for trains of them; None where they cannot come.
    more: files of `dir` that may ask other nodes.
    """

    def __init__(
        self,
        network: Network,
        offers: Offers | None = None,
        sessions: Sessions | None = None,
        more: Sequence[Row] = (),
    ) -> None:
        self.network = network
        self._nodes: dict[str, TableDir] = {}
        machine = network.cloud.machine
        probe = File(
            Probe(network, offers), network, numbers.PROBE, machine.owner, lambda: machine.started
        )
        train = File(
            Train(sessions), network, numbers.TRAIN, machine.owner, lambda: machine.started
        )
        self.dir = self._make((*TABLE, *more), numbers.NET, self.find, self._refresh)
        self.own = self._make(TABLE, numbers.OWN_NET, self._known, lambda cues: None, probe, train)

    def _make(
        self,
        rows: Sequence[Row],
        number: int,
        find: Callable[[str, Attach, Cues], Node | Wait[Node]],
        refresh: Callable[[Cues], Wait[bool] | None],
        *hidden: Node,
    ) -> LiveDir:
        machine, cloud = self.network.cloud.machine, self.network.cloud
        return LiveDir(
            "net",
            rows,
            self.network,
            number,
            machine.owner,
            lambda: machine.started,
            find=find,
            every=lambda: {name: self._dir(name) for name in sorted(cloud.nodes)},
            version=lambda: cloud.version,
            refresh=refresh,
            doc=DOC + help_of(VERBS.values()),
            hidden=hidden,
        )

    def _known(self, name: str, at: Attach, cues: Cues) -> Node:
        if self.network.cloud.node(name) is None:
            raise unknown(name)
        return self._dir(name)

    def _refresh(self, cues: Cues) -> Wait[bool] | None:
        cloud = self.network.cloud
        return None if cloud.alone() else Wait(partial(cloud.refresh, "nodes", cues.max_time))

    def find(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        """The directory of a node that is known, here or to another zone."""
        cloud = self.network.cloud
        if cloud.node(name) is not None:
            return self._dir(name)
        if cloud.alone() or not usable(name) or name == cloud.machine.name:
            raise unknown(name)

        async def ask() -> Node:
            await cloud.refresh(f"node {name}", cues.max_time)
            if cloud.node(name) is None:
                raise unknown(name)
            return self._dir(name)

        return Wait(ask)

    def _dir(self, name: str) -> TableDir:
        found = self._nodes.get(name)
        if found is None:
            machine, nodes = self.network.cloud.machine, self.network.cloud.nodes
            if len(self._nodes) > 2 * len(nodes) + 64:
                self._nodes.clear()
            found = self._nodes[name] = TableDir(
                name,
                WAY,
                Way(self.network, name),
                numbers.named("net", name),
                machine.owner,
                lambda: machine.started,
                doc=NODE_DOC + help_of(WAY_VERBS.values()),
            )
        return found


# --- tables -----------------------------------------------------------------------------------


class Figures(Row):
    """A table of one figure to all nodes; `form` shows a value."""

    def __init__(
        self,
        name: str,
        doc: str,
        figure: Callable[[Network, str], Known | None],
        form: Callable[[float], str],
    ) -> None:
        super().__init__(name, 0o444, doc)
        self.figure = figure
        self.form = form

    def open(self, subject: Network, mode: int, at: Attach, cues: Cues) -> Handle:
        names = sorted(subject.cloud.nodes)
        if len(names) <= TURN:
            return Text(self.rows(subject, names))
        return Long(self, subject, names)

    def rows(self, network: Network, names: list[str]) -> str:
        found = ((name, self.figure(network, name)) for name in names)
        return "".join(self._row(name, known) for name, known in found if known is not None)

    def _row(self, name: str, known: Known) -> str:
        value, error = self.form(known.value), self.form(known.error)
        return f"{ndb.quote(name):<24} {value:>14} {known.age:>9.1f} {known.how:<9} {error:>14}\n"


class Long(Text):
    """A table of so many rows that others get their turn while the first read makes them."""

    __slots__ = ("_made", "_names", "_network", "_table")

    def __init__(self, table: Figures, network: Network, names: list[str]) -> None:
        super().__init__("")
        self._table, self._network, self._names = table, network, names
        self._made = False

    def read(self, offset: int, count: int) -> bytes | Wait[bytes]:  # type: ignore[override]
        return (
            super().read(offset, count) if self._made else Wait(partial(self._make, offset, count))
        )

    async def _make(self, offset: int, count: int) -> bytes:
        parts = []
        for first in range(0, len(self._names), TURN):
            parts.append(self._table.rows(self._network, self._names[first : first + TURN]))
            await trio.lowlevel.checkpoint()
        if not self._made:
            self.data, self._made = "".join(parts).encode(), True
        return super().read(offset, count)


class Map(Row):
    """The picture of kernel/chart.py, of the same figures as `latency`."""

    def __init__(self) -> None:
        super().__init__(
            "map.svg",
            0o444,
            "A picture: nodes at their coordinates, the ways from here coloured by their latency.",
        )

    def open(self, subject: Network, mode: int, at: Attach, cues: Cues) -> Handle:
        nodes = subject.cloud.nodes
        others = []
        for name in chart.choose(nodes, subject.met):
            place = subject.coordinate_of(name)
            if place is not None:
                others.append(Star(name, place, subject.latency(name)))
        here = Star(subject.cloud.machine.name, subject.coordinate())
        return Text(chart.svg(here, others, len(nodes)))


def _near(network: Network, at: Attach) -> str:
    """The nearest nodes that were measured and in how many seconds, best first."""
    return "".join(f"{ndb.quote(name):<24} {time:>14.6f}\n" for name, time in network.near())


def _coordinate(network: Network, at: Attach) -> str:
    """Where this node stands: a place and a height, in seconds, and the relative error to
    expect.  The time between two nodes is the distance of their places plus both heights."""
    return f"{network.coordinate()}\n"


def _interfaces(network: Network, at: Attach) -> str:
    """A line for each interface of this node: its name, then what it received and sent."""
    found = network.cloud.machine.metrics.net()
    return "".join(f"{ndb.quote(n.pop('name'))} {ndb.record(n)}\n" for n in found)


def _seconds(value: float) -> str:
    return f"{value:.6f}"


def _bytes(value: float) -> str:
    return f"{value:.0f}"


def _fraction(value: float) -> str:
    return f"{value:.4f}"


def _probe_any(network: Network, args: list[str]) -> Wait[None]:
    """Measure the way to a node, as its own ctl does; it may be one that is not known here
    yet."""
    return _probe(Way(network, args[0]), args[1:])


VERBS = table(Verb("probe NODE [count=N|bandwidth]", 1, 2, _probe_any))


def _net_ctl(network: Network, at: Attach) -> str:
    """Read: the verbs it takes.  Write: a verb a line."""
    return "".join(f"{verb.usage}\n" for verb in VERBS.values())


def _net_act(network: Network, line: str, at: Attach) -> Wait[None] | None:
    found = find(VERBS, line)
    return found[0].run(network, found[1]) if found else None


TABLE = (
    Ctl("ctl", 0o666, _net_ctl, _net_act),
    Figures("latency", "Seconds to each node and back.", Network.latency, _seconds),
    Figures("bandwidth", "Bytes a second to each node.", Network.bandwidth, _bytes),
    Figures("loss", "Part of the probes that each node left unanswered.", Network.loss, _fraction),
    Value("near", 0o444, _near),
    Value("coordinate", 0o444, _coordinate),
    Value("interfaces", 0o444, _interfaces),
    Map(),
)


# --- one node -----------------------------------------------------------------------------------


def _record(known: Known | None, form: Callable[[float], str], more: str = "") -> str:
    if known is None:
        return ""
    value, error = form(known.value), form(known.error)
    return f"value={value} age={known.age:.1f} how={known.how} error={error}{more}\n"


def _latency(way: Way, at: Attach) -> str:
    """Seconds there and back; of nodes that are measured often also what to expect in 10 and
    30 s, each with its error."""
    more = ""
    for seconds in AHEAD:
        expected = way.network.ahead(way.node, seconds)
        if expected is not None:
            value, error = max(0.0, expected.value), expected.error
            more += f" in{seconds}={value:.6f} in{seconds}.error={error:.6f}"
    return _record(way.network.latency(way.node), _seconds, more)


def _bandwidth(way: Way, at: Attach) -> str:
    """Bytes a second to it, once that was measured; and back from it, with its own age and
    error, once that was measured or much came from it."""
    more, back = "", way.network.back(way.node)
    if back is not None:
        value, error = _bytes(back.value), _bytes(back.error)
        more = f" back={value} back.age={back.age:.1f} back.error={error}"
    known = way.network.bandwidth(way.node)
    return _record(known, _bytes, more) if known is not None or not more else f"{more.strip()}\n"


def _loss(way: Way, at: Attach) -> str:
    """Part of the probes that it left unanswered."""
    return _record(way.network.loss(way.node), _fraction)


def _jitter(way: Way, at: Attach) -> str:
    """Seconds by which one round trip differs from the next, on average."""
    found = way.network.jitter(way.node)
    return "" if found is None else f"{found:.6f}\n"


def _place(way: Way, at: Attach) -> str:
    """Where that node says it stands, as in ../coordinate."""
    found = way.network.coordinate_of(way.node)
    return "" if found is None else f"{found}\n"


def _cost(way: Way, at: Attach) -> str:
    """What to expect of moving so many bytes there, and of starting an object there: seconds,
    and the price of one of its cores for that time.  What is not known is left out."""
    network, node = way.network, way.node
    info = network.cloud.node(node)
    latency, rate = network.latency(node), network.bandwidth(node)
    told = info.told if info is not None else {}
    price = number(told.get("price", ""))
    lines = []

    def line(what: str, seconds: float, error: float) -> None:
        pairs: dict[str, object] = {"seconds": _seconds(seconds), "error": _seconds(error)}
        if price is not None:
            pairs["price"] = float(f"{price * seconds / 3600:.6g}")
        lines.append(f"{what} {ndb.record(pairs)}\n")

    for size in SIZES if latency is not None and rate is not None and rate.value > 0 else SIZES[:1]:
        if latency is None:
            break
        time = size / rate.value if size and rate is not None else 0.0
        doubt = time * rate.error / rate.value if size and rate is not None else 0.0
        line(f"move bytes={size}", latency.value + time, latency.error + doubt)
    for name, text in sorted(told.items()):
        start, seconds = _START.fullmatch(name), number(text)
        if start and seconds is not None and seconds >= 0:
            way_there = latency.value if latency is not None else 0.0
            line(f"start runtime={start[1]}", seconds + way_there, seconds / 2)
    return "".join(lines)


def _probe(way: Way, args: list[str]) -> Wait[None]:
    """Measure now, and be done when that is so: by so many probes, 3 if none are named, or
    the bandwidth."""
    if args == ["bandwidth"]:
        return Wait(partial(_probe_bandwidth, way))
    count = DEFAULT
    if args:
        name, _, text = args[0].partition("=")
        if name != "count" or not re.fullmatch("[0-9]{1,6}", text):
            raise CloudError(
                "bad",
                f"probe: {args[0][:40]!r} is neither count=N nor bandwidth",
                "write: probe count=10",
            )
        count = int(text)
    return Wait(partial(_probe_latency, way, count))


async def _probe_latency(way: Way, count: int) -> None:
    await way.network.demands.probe(way.node, count, SECONDS + EACH * count)


async def _probe_bandwidth(way: Way) -> None:
    await way.network.demands.bandwidth_of(way.node)


WAY_VERBS = table(Verb("probe [count=N|bandwidth]", 0, 1, _probe))


def _ctl(way: Way, at: Attach) -> str:
    """Read: the node's name and the verbs it takes.  Write: a verb a line."""
    return f"{way.node}\n" + "".join(f"{verb.usage}\n" for verb in WAY_VERBS.values())


def _act(way: Way, line: str, at: Attach) -> Wait[None] | None:
    found = find(WAY_VERBS, line)
    return found[0].run(way, found[1]) if found else None


WAY = (
    Value("latency", 0o444, _latency),
    Value("bandwidth", 0o444, _bandwidth),
    Value("loss", 0o444, _loss),
    Value("jitter", 0o444, _jitter),
    Value("cost", 0o444, _cost),
    Value("coordinate", 0o444, _place),
    Ctl("ctl", 0o666, _ctl, _act),
)
