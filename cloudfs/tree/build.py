"""The whole tree of a node, put together from its directories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloudfs.kernel.bell import Log
from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.finder import Finder
from cloudfs.kernel.network import Network
from cloudfs.kernel.object import Object
from cloudfs.kernel.runs import Runs
from cloudfs.kernel.secstore import Secstore
from cloudfs.tree import enrol, factotum, nodes, secstore
from cloudfs.tree.api import Node, Who
from cloudfs.tree.cs import Cs
from cloudfs.tree.factotum import Agents
from cloudfs.tree.groups import Groups, Way
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
    """root: /cloud.  own: what other nodes see as /cloud/nodes/NAME; nothing far is in it.
    strangers: what those see who come from elsewhere and prove nothing."""

    root: Node
    own: Node
    strangers: Node


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
    agents: Agents | None = None,
    store: Secstore | None = None,
) -> Trees:
    """The trees of a node.

    events: of the whole cloud.  imports: the trees of other nodes.
    shown(object): names of users as the object's sandbox is to see them.
    network: what the ways to other nodes cost.  offers: keys for probing this node, and
    sessions: for measuring what the way to it carries.  agents: the factotums of its users.
    store: users and their keys.
    """
    machine = cloud.machine
    network = network or Network(cloud)
    network.reach = lambda node, limit: Files(imports.reach(node), Who(machine.owner, None), limit)
    finder = Finder(cloud, network)
    net = Net(network, offers, sessions, [Cs(finder)])
    proc = Proc(
        cloud.objects,
        lambda: machine.price,
        lambda: machine.public.rpartition(":")[0],
        machine.bill,
    )
    held = [secstore.own(store.holder, machine.owner)] if store else []
    own = nodes.own(machine, proc, tape, net.own, *held)
    whole = Whole(proc, own, cloud, imports)
    every = whole.proc()
    runs = machine.runs = Runs(cloud.objects)
    runs.reach = Way(whole, every)
    inner = InnerSpaces(cloud.objects, errors, shown)
    query = QueryDir(whole, finder)
    view = views(whole, Groups(whole, runs))
    parts = [every, whole.nodes(), whole.clusters(), net.dir, query, view]
    if agents is not None:
        parts.append(factotum.directory(agents, machine.owner, machine.started))
    parts += [secstore.secstore(store, machine.owner)] if store else []
    tree = root(events, machine.owner, parts, [inner])
    inner.serve(tree)
    return Trees(tree, own, enrol.for_strangers(machine))
