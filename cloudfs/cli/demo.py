"""cloudfs demo: a cloud of several nodes on this machine, to try things out."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click

from cloudfs.cli import Options, local, loop, shell
from cloudfs.cli.attach import attached
from cloudfs.cli.local import LocalNode
from cloudfs.cli.up import until
from cloudfs.errors import CloudError
from cloudfs.node import wan
from cloudfs.node.machines import Machines, lack
from cloudfs.node.netns import comes
from cloudfs.wire import tool
from cloudfs.wire.connect import connect

MEET = 30.0  # seconds for all to hear of each other
MOST = 60  # beyond, the daemons measure the machine and not themselves
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

LINES = """\
  cloudfs nodes
  head {m}/nodes/*/load
  cloudfs run --on n{last} sh -c 'while :; do date; sleep 1; done' runaway
  grep -l runaway {m}/nodes/*/proc/*/args
  cat {m}/.follow/events"""


@click.command()
@click.argument("count", metavar="[N]", default=5, type=click.IntRange(1, MOST))
@click.option("--mount", "mount", metavar="DIR", help="Where to mount the first node's tree.")
@click.option("--ports", is_flag=True, help="Nodes on loopback ports, as without root.")
@click.option("--wan", "matrix", metavar="FILE", help="Make the links as long as FILE says.")
@click.option("--delay", type=click.FloatRange(0, 30), help="Seconds from a node to another.")
@click.option("--rate", type=click.FloatRange(0, 1e12), help="bit/s that a link carries.")
@click.option("-c", "line", metavar="LINE", help="Run this shell line instead of a prompt.")
@click.pass_obj
def demo(
    options: Options,
    count: int,
    mount: str | None,
    ports: bool,
    matrix: str | None,
    delay: float | None,
    rate: float | None,
    line: str | None,
) -> None:
    """A cloud of N nodes on this machine, 5 unless told; it goes when you leave it.

    For root every node has a network, processes, mounts and a host name of its own; for
    others they are daemons beside each other on loopback ports.  They are in two
    clusters, from six nodes on in three.  The tree of the first node is mounted, and the
    commands of cloudfs act on it.

    At a terminal you get a shell.  Else the cloud stays until standard input ends or a
    signal comes.  Root's private network can be split and healed: see $CLOUDFS_NET with

    \b
      python -m cloudfs.node.netns $CLOUDFS_NET n1 n2 / n3 n4 n5
      python -m cloudfs.node.netns $CLOUDFS_NET n1 n2 n3 n4 n5

    Its links are as quick as this machine unless told otherwise: all alike with --delay and
    --rate, or with --wan by a matrix of round trips in milliseconds, one row a line, for as
    many nodes at least; the word "example" is one between six towns.  Each can be changed:

    \b
      python -m cloudfs.node.wan $CLOUDFS_NET n1 n2 delay=0.2 loss=0.01 rate=1e7
    """
    if options.explain:
        _explain(count, mount)
        return
    apart = not ports and os.geteuid() == 0
    if apart and (word := lack()):
        raise CloudError("unsupported", word, "or type: cloudfs demo --ports")
    far = matrix is not None or delay is not None or rate is not None
    if far and not apart:
        raise CloudError("unsupported", "links of loopback ports have no length", "be root")
    if matrix is not None and delay is not None:
        raise CloudError("bad", "--wan and --delay both say how long links are", "give one")
    links = _links(count, matrix, delay, rate) if far else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(_signals())
        cloud = stack.enter_context(_apart(count, links) if apart else _beside(count))
        local.start(cloud.nodes)
        first = cloud.nodes[0]
        point = stack.enter_context(_mounted(first, mount, cloud.folder))
        _meet(cloud.nodes)
        _greet(cloud, point)
        env = {"CLOUDFS_STATE": str(first.state), "CLOUDFS_MOUNT": point, "CLOUDFS_NET": cloud.tag}
        status = _stay(env, line, cloud.folder)
    raise SystemExit(status)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """A signal ends us by way of every `finally`; a second one does not disturb that."""

    def leave(number: int, frame: FrameType | None) -> None:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class Cloud:
    """Nodes, a folder for all that is theirs, and the tag of their private network, ""
    for none."""

    nodes: list[LocalNode]
    folder: Path
    tag: str = ""


@dataclass(slots=True)
class Links:
    """Round trips in seconds, and what each link carries in bit/s, 0 for no bound."""

    trips: wan.Matrix
    rate: float = 0.0


def _links(count: int, matrix: str | None, delay: float | None, rate: float | None) -> Links:
    if matrix == "example":
        trips = wan.example(count)
    elif matrix is not None:
        trips = wan.load(Path(matrix), count)
    else:
        trips = [[2 * (delay or 0.0)] * count] * count
    return Links(trips, rate or 0.0)


@contextlib.contextmanager
def _apart(count: int, links: Links | None) -> Iterator[Cloud]:
    """Nodes in enclosures."""
    named = local.clusters(count)
    with Machines([name for name, _ in named], wan=links is not None) as machines:
        if links is not None:
            machines.wan.shape(links.trips, links.rate)
        yield Cloud(local.enclosed(machines, dict(named)), machines.base, machines.tag)


@contextlib.contextmanager
def _beside(count: int) -> Iterator[Cloud]:
    """Nodes on loopback ports."""
    named = zip(local.clusters(count), local.free_ports(count), strict=True)
    with tempfile.TemporaryDirectory(prefix="cloudfs-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        nodes = [
            LocalNode(name, cluster, f"127.0.0.1:{port}", folder / name / "state")
            for (name, cluster), port in named
        ]
        local.prepare(folder, nodes)
        try:
            yield Cloud(nodes, folder)
        finally:
            local.close(nodes)


@contextlib.contextmanager
def _mounted(node: LocalNode, mount: str | None, folder: Path) -> Iterator[str]:
    """A node's tree where the user can reach it, over its socket."""
    point = Path(mount).absolute() if mount else folder / "cloud"
    made = not point.exists()
    try:
        point.mkdir(exist_ok=True)
    except OSError as error:
        raise CloudError("denied", f"{point}: {error.strerror}", "give --mount DIR") from None
    try:
        with attached(f"unix:{node.socket}", str(point)):
            yield str(point)
    finally:
        if made:
            with contextlib.suppress(OSError):
                point.rmdir()


def _meet(nodes: Sequence[LocalNode]) -> None:
    """Wait until each node knows all others.  Those of other clusters come last: the first node
    may have them seconds before the rest."""
    waiting = list(nodes)

    async def look() -> None:
        for node in list(waiting):
            async with connect(f"unix:{node.socket}", version="9P2000.L") as client:
                names = {stat.name for stat in await tool.ls(client, "/nodes", long=False)}
            if not {other.name for other in nodes} <= names:
                return
            waiting.remove(node)

    def known() -> bool:
        with contextlib.suppress(CloudError):  # one that is just busy
            loop.run(look)
        return not waiting

    if not until(known, MEET):
        click.echo(f"after {MEET:g} s the nodes do not all know each other yet", err=True)


def _greet(cloud: Cloud, point: str) -> None:
    where = "each a machine of its own" if cloud.tag else "on loopback ports"
    click.echo(f"{len(cloud.nodes)} nodes are up, {where}:")
    for node in cloud.nodes:
        click.echo(f"  {node.name:4} {node.cluster:6} {node.address}")
    click.echo(f"The tree of {cloud.nodes[0].name} is at {point}.  Try:")
    click.echo(LINES.format(m=shlex.quote(point), last=len(cloud.nodes)))


def _stay(env: dict[str, str], line: str | None, folder: Path) -> int:
    """Until the user has had enough; the exit status."""
    os.environ.update(env)
    # So that the commands typed are those of this very program.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    if line is None and not sys.stdin.isatty():
        click.echo("It stays until standard input ends or a signal comes.")
        while comes(0) and os.read(0, 4096):
            continue
        return 0
    words = shell.command(line, folder)
    # ^C is the shell's; and unlike what is ignored, what is caught is not inherited.
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        code = subprocess.run(words, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


def _explain(count: int, mount: str | None) -> None:
    """The form with loopback ports, in shell lines."""
    click.echo("d=$(mktemp -d)")
    first: dict[str, str] = {}  # cluster → its first node, which is its issuer
    for (name, cluster), port in zip(local.clusters(count), local.free_ports(count), strict=True):
        at, do = f"127.0.0.1:{port}", f"CLOUDFS_STATE=$d/{name} cloudfs"
        named = f"--node {name} --cluster {cluster}"
        click.echo(f"{do} up --no-mount {named} --listen {at}")
        if cluster in first:
            click.echo(f"{do} join $d/{cluster}")
            continue
        if first:  # of another cluster: begun with the root key, it joins by an address
            click.echo(f"{do} init --root $d/n1/root.key local {cluster}")
            click.echo(f"{do} join {first[next(iter(first))]}")
        else:
            click.echo(f"{do} init local {cluster}")
        first[cluster] = at
        click.echo(f"{do} invite --uses {count} > $d/{cluster}")
    point = shlex.quote(str(Path(mount).absolute())) if mount else "$d/cloud"
    click.echo(f"mkdir -p {point}; cloudfs mount unix:$d/n1/sock {point}")
    click.echo("kill $(cat $d/*/pid)  # when you have had enough")
