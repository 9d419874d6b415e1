"""The whole tree of a node, put together from its directories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloudfs.kernel.bell import Log
from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.finder import Finder
from cloudfs.kernel.network import Network
from cloudfs.kernel.object import Object
from cloudfs.tree import nodes
from cloudfs.tree.api import Node, Who
from cloudfs.tree.cs import Cs
from cloudfs.tree.imports import Files, Imports
from cloudfs.tree.inner import InnerSpaces
from cloudfs.tree.net import Net
from cloudfs.tree.nodes import Tape
from cloudfs.tree.probe import Offers
from cloudfs.tree.proc import Proc
from cloudfs.tree.query import QueryDir
from cloudfs.tree.root import root
from cloudfs.tree.space import ErrLog
from cloudfs.tree.train import Sessions
from cloudfs.tree.view import views
from cloudfs.tree.whole import Whole


@dataclass(slots=True)
class Trees:
    """root: /cloud.  own: what other nodes see as /cloud/nodes/NAME; nothing far is in it."""

    root: Node
    own: Node


def build(
    cloud: Cloud,
    events: Log,
    errors: ErrLog,
    tape: Tape,
    imports: Imports,
    shown: Callable[[Object], dict[str, str]],
    network: Network | None = None,
    offers: Offers | None = None,
    sessions: Sessions | None = None,
) -> Trees:
    """The trees of a node.

    events: of the whole cloud.  imports: the trees of other nodes.
    shown(object): names of users as the object's sandbox is to see them.
    network: what the ways to other nodes cost.  offers: keys for probing this node, and
    sessions: for measuring what the way to it carries.
    """
    machine = cloud.machine
    network = network or Network(cloud)
    network.reach = lambda node, limit: Files(imports.reach(node), Who(machine.owner, None), limit)
    finder = Finder(cloud, network)
    net = Net(network, offers, sessions, [Cs(finder)])
    proc = Proc(cloud.objects, lambda: machine.price, lambda: machine.public.rpartition(":")[0])
    own = nodes.own(machine, proc, tape, net.own)
    whole = Whole(proc, own, cloud, imports)
    inner = InnerSpaces(cloud.objects, errors, shown)
    query = QueryDir(whole, finder)
    parts = [whole.proc(), whole.nodes(), whole.clusters(), net.dir, query, views(whole)]
    tree = root(events, machine.owner, parts, [inner])
    inner.serve(tree)
    return Trees(tree, own)
