"""Commands about who has a place in the cloud: init, invite, join, node revoke."""

from __future__ import annotations

from pathlib import Path

import click

from cloudfs import config, ndb
from cloudfs.cli import Options
from cloudfs.cli.files import Files, Shell, open_files
from cloudfs.cli.nodes import own
from cloudfs.errors import CloudError

LONGEST = 8192  # bytes of a join file


@click.command()
@click.argument("cloud", default="", metavar="[CLOUD]")
@click.argument("cluster", default="", metavar="[CLUSTER]")
@click.option("--root", type=click.Path(path_type=Path, dir_okay=False),
              help="Begin another cluster of the cloud whose root key this is.")  # fmt: skip
@click.pass_obj
def init(options: Options, cloud: str, cluster: str, root: Path | None) -> None:
    """Begin a cloud, of which this node is the first.

    CLOUD is its name, `local` unless it is said, CLUSTER that of this node's cluster, as it
    was started unless it is said.  In the node's state directory come to stand the root key
    root.key, with which clusters are made, and cluster.key, with which this node makes the
    certificates of its cluster's nodes.  Carry root.key away, to a place that is on no network:
    nodes work on without it, and whoever has it has the cloud.

    The first node of another cluster is begun with --root and CLUSTER, and then told where
    the others are: cloudfs join HOST:PORT.  Writes init to this node's ctl.
    """
    files = open_files(options)
    place = config.state_dir() / "root.key"
    if root is not None:
        _copy(files, root, place)
    if cluster and not cloud:
        raise CloudError("bad", "CLUSTER stands behind CLOUD", "write: cloudfs init CLOUD CLUSTER")
    line = " ".join(["init", *(ndb.quote(word) for word in (cloud, cluster) if word)])
    files.write(f"nodes/{own(files)}/ctl", line)
    if not options.explain:
        click.echo(f"this node is the first of its cluster; the root key is {place}")
        click.echo("carry it away to a place that is on no network; nodes work on without it")
        click.echo("others join with a file: cloudfs invite > FILE")


def _copy(files: Files, root: Path, place: Path) -> None:
    """Put a root key into the state directory."""
    if isinstance(files, Shell):
        files.say(f"install -m 600 {files.name(str(root))[len(files.root) + 1 :]} {place}")
        return
    from cloudfs.factotum.nodekeys import authority_in, write  # imports cryptography

    made = authority_in(root)
    if made is None or made.cluster:
        raise CloudError("bad", f"{root} is no root key", "give the root.key of the cloud")
    if place.exists() and place.read_bytes() != made.pem():
        raise CloudError("exists", f"there is another {place}", "move it away first")
    write(place, made.pem(), 0o600)


@click.command()
@click.option("--for", "life", default="1d", metavar="TIME", show_default=True,
              help="How long it is good, as 30min, 12h or 7d.")  # fmt: skip
@click.option("--uses", default=1, show_default=True, help="How many nodes may join with it.")
@click.pass_obj
def invite(options: Options, life: str, uses: int) -> None:
    """Print a join file: all that another machine needs to join this cloud and cluster.

    Carry it there by a way you trust and type `cloudfs join FILE`.  Whoever has it may join
    until it ends or is used up.  Only a node that has its cluster's cluster.key can make one,
    and it must be up when the file is used.  Reads this node's invite.
    """
    files = open_files(options)
    made = files.ask(f"nodes/{own(files)}/invite", f"for={life} uses={uses}\n")
    click.echo(made, nl=False)


@click.command()
@click.argument("places", nargs=-1, required=True, metavar="FILE|HOST:PORT...")
@click.pass_obj
def join(options: Options, places: tuple[str, ...]) -> None:
    """Join a cloud, with a join file that was made there by `cloudfs invite`.

    The node makes a key of its own, checks the cloud by the hash in the file, asks one of the
    nodes that the file names for a certificate, and is from then on a node of the file's
    cluster.  It must have been started with an address: cloudfs up --listen HOST:PORT.  A node
    that has its certificate, but left the cloud or lost it, joins again with the addresses of
    any nodes of it.  Writes join to this node's ctl.
    """
    files = open_files(options)
    path = f"nodes/{own(files)}/ctl"
    if len(places) > 1 or ":" in places[0]:
        files.write(path, " ".join(["join", *map(ndb.quote, places)]))
    elif isinstance(files, Shell):
        files.say(f"sed 's/^/join /' {places[0]} > {files.name(path)}")
    else:
        files.write(path, f"join {_join_file(places[0])}")


def _join_file(name: str) -> str:
    try:
        with open(name, "rb") as file:
            text = file.read(LONGEST).decode().strip()
    except OSError as error:
        raise CloudError("absent", f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    if not text.startswith("cloud=") or "\n" in text:
        raise CloudError("bad", f"{name} is no join file", "make one, over there: cloudfs invite")
    return text


@click.group()
def node() -> None:
    """Take a node's place in the cloud away."""


@node.command()
@click.argument("name", metavar="NODE")
@click.option("--cluster", default="", help="The node's cluster, where nobody knows it.")
@click.pass_obj
def revoke(options: Options, name: str, cluster: str) -> None:
    """Take a node's place in the cloud away, as when its machine was stolen.

    All nodes close their connections with it and let it in no more, within seconds where
    they are connected, and its certificate is not renewed.  The name cannot be used again for
    eleven days.  A node that has a cluster.key can make certificates itself: revoking it does
    not help against whoever has that file.

    Writes revoke to the ctl of a node that has the authority of the node's cluster.
    """
    files = open_files(options)
    line = " ".join(["revoke", *(ndb.quote(word) for word in (name, cluster) if word)])
    if isinstance(files, Shell):
        files.write(f"nodes/{own(files)}/ctl", line)
        return
    files.write(f"nodes/{_issuer(files, name, cluster)}/ctl", line)


def _issuer(files: Files, name: str, cluster: str) -> str:
    """A node that can revoke that one: an issuer of its cluster, else this node, which
    will say what it lacks."""
    here = own(files)
    if not cluster:
        try:
            cluster = ndb.parse(files.read(f"nodes/{name}/status"))["cluster"]
        except (CloudError, KeyError):
            cluster = ndb.parse(files.read(f"nodes/{here}/status"))["cluster"]
    try:
        found = files.list(f"query/issuer=yes/cluster={cluster}")
    except CloudError:
        found = []
    issuers = [other for other in found if other not in (name, "help")]
    return here if here in issuers or not issuers else issuers[0]
