"""The whole cloud in directories: /cloud/proc, /cloud/nodes, /cloud/clusters.

What this node has is in tables of its own (tree/proc.py, tree/nodes.py); what others have
stands beside it as far directories (tree/far.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import moved
from cloudfs.kernel.aggregate import Digest
from cloudfs.kernel.catalog import Seen, usable
from cloudfs.kernel.cloud import Cloud, NodeInfo
from cloudfs.kernel.handover import HOPS
from cloudfs.kernel.object import ID, Object
from cloudfs.tree import far, numbers
from cloudfs.tree.api import Cues, Handle, Node, Wait
from cloudfs.tree.far import Far, Silence
from cloudfs.tree.files import Clone, Row
from cloudfs.tree.handles import Text
from cloudfs.tree.imports import Imports
from cloudfs.tree.nodes import DOC as NODES_DOC
from cloudfs.tree.onward import Follow, Place
from cloudfs.tree.proc import DOC as PROC_DOC
from cloudfs.tree.proc import Proc
from cloudfs.tree.space import Attach
from cloudfs.tree.table import LiveDir, TableDir
from cloudfs.wait import settle, then

log = logging.getLogger(__name__)

CLUSTERS_DOC = """\
The clusters of the cloud, each with what its nodes have in sum, and the nodes.
"""


class Whole:
    """The directories of a cloud's objects, nodes and clusters.

    own: this node's directory.
    """

    def __init__(
        self,
        proc: Proc,
        own: Node,
        cloud: Cloud,
        imports: Imports,
    ) -> None:
        self.cloud = cloud
        self._proc = proc
        self._own = own
        self._imports = imports
        self._silence = Silence()
        self._follow = Follow(self._where, self._place, self._ask)
        self._far_objects: dict[str, _FarObject] = {}
        self._far_nodes: dict[str, Far] = {}
        self._clusters: dict[str, Node] = {}

    # --- objects ----------------------------------------------------------------------------

    def dir_of(self, found: Object | Seen) -> Node:
        """The directory of an object, wherever it runs."""
        return self._proc.dir_of(found) if isinstance(found, Object) else self._far(found)

    def _far(self, seen: Seen) -> _FarObject:
        known = self._far_objects.get(seen.id)
        if known is None or known.of is not seen:
            if len(self._far_objects) > 2 * len(self.cloud.catalog.seen) + 64:
                self._far_objects.clear()
            known = self._far_objects[seen.id] = _FarObject(
                seen, self.cloud, self._imports, self._silence
            )
        return known

    def find(self, id: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        """The directory of the object of that id as at may see it."""
        node = self._known(id, at)
        left = self.cloud.catalog.left.get(id) if node is None else None
        if left is not None:
            return Wait(partial(self._find_again, self._far(left), id, at, cues))
        node = node or self._sent(id)
        if node is not None:  # before anything is made that only a miss needs: a walk is hot
            return self.roaming(id, node) if cues.follow else node
        question = f"object {id}" if ID.fullmatch(id) else ""
        found = self.look(question, partial(self._known, id, at), cues, _no_object(id))
        return then(found, partial(self.roaming, id)) if cues.follow else found

    async def _find_again(self, last: _FarObject, id: str, at: Attach, cues: Cues) -> Node:
        """One for which nobody speaks now, perhaps since it moved: its node knows where to.
        Nothing is kept of that, since the new node soon tells of it; or its end was told."""
        node = await last.still(at, cues)
        if node and node != self.cloud.machine.name and self._known(id, at) is None:
            there = last.at_node(node)
            return self._follow.object(there, id, node) if cues.follow else there
        if self.cloud.catalog.left.get(id) is last.of:
            del self.cloud.catalog.left[id]
        return await settle(self.find(id, at, cues))

    def roaming(self, id: str, node: Node) -> Node:
        """The directory of an object, for `.follow`: its files go on wherever it goes."""
        place = self._where(id)
        return self._follow.object(node, id, place[0]) if place else node

    def _where(self, id: str) -> Place | None:
        """The node that an object is on, as far as this one knows."""
        if id in self._proc.objects.all:
            return self._place(self.cloud.machine.name, id)
        seen = self.cloud.catalog.find(id)
        node = seen.node if seen else self._proc.objects.moved_to(id)
        return self._place(node, id) if node else None

    def _place(self, node: str, id: str) -> Place:
        """The files of an object at a node."""
        made = self._proc.objects.all.get(id)
        if node == self.cloud.machine.name and made is not None:
            here = self._proc.dir_of(made)
            return node, here.file
        return node, lambda name: self._imports.reach(node, ("proc", id, name))

    async def _ask(self, id: str) -> None:
        await self.cloud.refresh(f"object {id}", 1.0)

    def look(
        self, question: str, known: Callable[[], Node | None], cues: Cues, absent: CloudError
    ) -> Node | Wait[Node]:
        """What is known; where that is nothing and there are other zones, what is known once
        they have answered the question, if there is one.  Raises `absent` if nothing is."""
        node = known()
        if node is not None:
            return node
        if self.cloud.alone() or not question:
            raise absent

        async def ask() -> Node:
            await self.cloud.refresh(question, cues.max_time)
            found = known()
            if found is None:
                raise absent
            return found

        return Wait(ask)

    def _known(self, id: str, at: Attach) -> Node | None:
        made = self._proc.objects.all.get(id)
        if made is not None:
            return self._proc.dir_of(made)
        seen = self.cloud.catalog.find(id)
        if seen is not None:
            return self._far(seen)
        try:
            return self._proc.dir_of(self._proc.objects.get(id, at.who))
        except CloudError as error:
            if error.kind != "absent":
                raise
        return None

    def _sent(self, id: str) -> Node | None:
        """One that this node sent to another, which has not told of it yet.  Nothing is kept of
        that, as the other node tells of it soon, or never."""
        handover = self._proc.objects.handover
        node, user = handover.moved.sent(id) if handover else ("", "")
        if not node:
            return None
        seen = Seen(node, {"id": id, "state": "starting", "user": user})
        info = self.cloud.node(node)
        seen.lost = info is not None and info.state == "gone"
        return _FarObject(seen, self.cloud, self._imports, self._silence)

    def every(self) -> dict[str, Node]:
        """The directories of all objects that are known."""
        nodes: dict[str, Node] = {
            id: self._proc.dir_of(made) for id, made in self._proc.objects.all.items()
        }
        nodes.update((seen.id, self._far(seen)) for seen in self.cloud.catalog.others())
        return nodes

    def refresh(self, question: str, cues: Cues) -> Wait[Any] | None:
        """Hear from other zones before a listing, where there are any."""
        if self.cloud.alone():
            return None
        return Wait(partial(self.cloud.refresh, question, cues.max_time))

    def proc(self) -> Node:
        """/cloud/proc: every object, wherever it runs."""
        objects, catalog = self._proc.objects, self.cloud.catalog
        return LiveDir(
            "proc",
            (Clone("clone", 0o444, self._proc.clone),),
            objects,
            numbers.PROC,
            objects.owner,
            lambda: max(objects.changed, catalog.changed),
            find=self.find,
            every=self.every,
            version=lambda: catalog.comings,
            refresh=partial(self.refresh, "objects"),
            doc=PROC_DOC,
        )

    # --- nodes ------------------------------------------------------------------------------

    def node_dir(self, name: str) -> Node | None:
        """The directory of a node that is known."""
        if name == self.cloud.machine.name:
            return self._own
        info = self.cloud.node(name)
        if info is None:
            return None
        known = self._far_nodes.get(name)
        if known is None:
            if len(self._far_nodes) > 2 * len(self.cloud.nodes) + 64:
                self._far_nodes.clear()
            known = self._far_nodes[name] = Far(
                name,
                far.number("nodes", name),
                self.cloud.machine.owner,
                self._imports,
                self._silence,
                name,
                (),
                partial(self._node_status, name),
                partial(self.cloud.refresh, f"node {name}"),
            )
        return known

    def _node_status(self, name: str) -> str:
        info = self.cloud.node(name)
        return node_status(info, self.cloud.age_of(name)) if info else ""

    def find_node(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        question = f"node {name}" if usable(name) else ""
        found = self.look(question, partial(self.node_dir, name), cues, _no_node(name))
        return then(found, self._followed) if cues.follow else found

    def _followed(self, node: Node) -> Node:
        return self._follow.node(node, node.name)

    def _every_node(self) -> dict[str, Node]:
        return self._nodes_of([self.cloud.machine.name, *self.cloud.nodes])

    def _nodes_of(self, names: list[str]) -> dict[str, Node]:
        found = ((name, self.node_dir(name)) for name in sorted(names))
        return {name: node for name, node in found if node is not None}

    def nodes(self) -> Node:
        """/cloud/nodes: every machine."""
        machine, cloud = self.cloud.machine, self.cloud
        return LiveDir(
            "nodes",
            (),
            machine,
            numbers.NODES,
            machine.owner,
            lambda: machine.changed,
            find=self.find_node,
            every=self._every_node,
            version=lambda: cloud.version,
            refresh=partial(self.refresh, "nodes"),
            doc=NODES_DOC,
        )

    # --- clusters -----------------------------------------------------------------------------

    def clusters(self) -> Node:
        """/cloud/clusters: the nodes by facility."""
        machine, cloud = self.cloud.machine, self.cloud

        def find(name: str, at: Attach, cues: Cues) -> Node:
            if name not in cloud.clusters():
                raise CloudError("absent", f"no cluster {name[:64]}", "see: ls /cloud/clusters")
            return self._cluster(name)

        return LiveDir(
            "clusters",
            (),
            machine,
            numbers.CLUSTERS,
            machine.owner,
            lambda: machine.changed,
            find=find,
            every=lambda: {name: self._cluster(name) for name in sorted(cloud.clusters())},
            version=lambda: cloud.version,
            refresh=partial(self.refresh, "nodes"),
            doc=CLUSTERS_DOC,
        )

    def _cluster(self, name: str) -> Node:
        known = self._clusters.get(name)
        if known is not None:
            return known
        machine, cloud = self.cloud.machine, self.cloud

        def find(node: str, at: Attach, cues: Cues) -> Node:
            found = self.node_dir(node) if cloud.cluster_of(node) == name else None
            if found is None:
                raise CloudError("absent", f"cluster {name} has no node {node[:64]}")
            return self._followed(found) if cues.follow else found

        inside = LiveDir(
            "nodes",
            (),
            machine,
            numbers.named("clusters", name, "nodes"),
            machine.owner,
            lambda: machine.changed,
            find=find,
            every=lambda: self._nodes_of(cloud.clusters().get(name, [])),
            version=lambda: cloud.version,
            refresh=partial(self.refresh, "nodes"),
            doc=f"The nodes of cluster {name}.",
        )
        made = self._clusters[name] = TableDir(
            name,
            (Summary(cloud),),
            name,
            numbers.named("clusters", name),
            machine.owner,
            lambda: machine.changed,
            [inside],
            "One cluster.",
        )
        return made


class Summary(Row):
    """What a cluster's nodes have in sum."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(
            "status",
            0o444,
            "A line for its nodes, one for each state, one for each number (over how many nodes, "
            "min, mean, max, sum) and one for each value of a text.",
        )
        self.cloud = cloud

    def open(self, subject: str, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        if self.cloud.alone():
            return Text(digest_text(self.cloud.digest(), True))
        return Wait(partial(self._open, subject, cues))

    async def _open(self, cluster: str, cues: Cues) -> Handle:
        digest, whole = await self.cloud.digest_of(cluster, cues.max_time)
        if not whole and cues.fresh:
            raise CloudError("timeout", f"not every zone of cluster {cluster} answered")
        return Text(digest_text(digest, whole))


def digest_text(digest: Digest, whole: bool) -> str:
    """A digest for people and for sort: the key first in each line."""
    lines = [f"nodes count={digest.nodes} zones={digest.leaves} whole={'yes' if whole else 'no'}"]
    lines += [f"{state} count={count}" for state, count in sorted(digest.states.items())]
    for name, has in sorted(digest.numbers.items()):
        numbers = {"min": has.min, "mean": has.mean, "max": has.max, "sum": has.total / 1e6}
        lines.append(f"{ndb.quote(name)} count={has.count} {ndb.record(numbers)}")
    for name, text in sorted(digest.texts.items()):
        lines += [
            f"{ndb.quote(name)} {ndb.record({'value': value, 'count': count})}"
            for value, count in sorted(text.values.items())
        ]
    return "".join(f"{line}\n" for line in lines)


class _FarObject(Far):
    """An object of another node, found again where that says that it has gone on."""

    __slots__ = ("_cloud", "of")

    def __init__(self, seen: Seen, cloud: Cloud, imports: Imports, silence: Silence) -> None:
        super().__init__(
            seen.id,
            far.number("proc", seen.id),
            seen.user,
            imports,
            silence,
            seen.node,
            ("proc", seen.id),
            lambda: (cloud.catalog.find(seen.id) or seen).status(cloud.age_of(seen.node)),
            partial(cloud.refresh, f"node {seen.node}"),
        )
        self.of = seen
        self._cloud = cloud

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        again = partial(self._walk_again, name, at, cues)
        return then(super().walk(name, at, cues), _same, again)

    def _walk_again(self, name: str, at: Attach, cues: Cues, error: CloudError) -> Wait[Node]:
        if error.kind not in ("absent", "stale"):
            raise error
        return Wait(partial(self._walk_there, name, at, cues, error))

    async def _walk_there(self, name: str, at: Attach, cues: Cues, error: CloudError) -> Node:
        node = moved.told_by(error) or await self._gone_to(at, cues)
        if not node or node in (self._node, self._cloud.machine.name):
            raise error
        self.went(node)
        return await settle(self._imports.reach(node, self._path).walk(name, at, cues))

    def went(self, node: str, text: str = "") -> None:
        told = {**self._told(), **ndb.parse(text.strip()), "id": self.of.id}
        self._cloud.catalog.put(node, ndb.record(told), by=self._node)

    def at_node(self, node: str) -> _FarObject:
        """The same object at another node."""
        seen = Seen(node, self._told())
        return _FarObject(seen, self._cloud, self._imports, self._silence)

    def _told(self) -> dict[str, str]:
        labels = {f"label.{name}": value for name, value in self.of.labels.items()}
        return {**self.of.told, **labels}

    async def still(self, at: Attach, cues: Cues) -> str:
        """The node that has it now, as that one says itself; "" where none does."""
        folder, id = self._path
        node, fresh = self._node, replace(cues, fresh=True)
        with trio.move_on_after(cues.max_time):
            for _ in range(HOPS):
                try:
                    await settle(self._imports.reach(node, (folder,)).walk(id, at, fresh))
                except CloudError as error:
                    node = moved.told_by(error)
                    if not node or node == self._cloud.machine.name:
                        break
                else:
                    return node
        return ""

    async def _gone_to(self, at: Attach, cues: Cues) -> str:
        """Where the object's node says that it went: only a walk to it alone is told."""
        folder, id = self._path
        try:
            await settle(self._imports.reach(self._node, (folder,)).walk(id, at, cues))
        except CloudError as error:
            if error.kind == "absent":
                self.ended()
            return moved.told_by(error)
        return ""

    def read(self, status: str) -> None:
        catalog = self._cloud.catalog
        found = catalog.find(self.of.id)
        if catalog.near(self._node) or (found is not None and found.node != self._node):
            return  # it tells that itself, or the object was heard to have gone on meanwhile
        try:
            self.went(self._node, status)  # so that it is known when nobody answers
        except (CloudError, KeyError) as error:
            log.debug("%s told nonsense of object %s: %s", self._node, self.of.id, error)

    def ended(self) -> None:
        self._cloud.catalog.deny(self._node, self.of.id)
        handover = self._cloud.objects.handover
        if handover is not None:
            handover.moved.left(self.of.id, self._node, "")


def _same(node: Node) -> Node:
    return node


def node_status(info: NodeInfo, age: float) -> str:
    """The status of a node as it is known here."""
    pairs: dict[str, object] = {
        "name": info.name,
        "state": info.state,
        "cluster": info.cluster,
        "addr": info.addr,
        "cpus": info.told.get("cpus", ""),
        "load": info.told.get("load", ""),
        "free": info.told.get("mem.free", ""),
        "age": round(age, 1),
    }
    return ndb.record(pairs) + "\n"


def _no_object(id: str) -> CloudError:
    return CloudError("absent", f"there is no object {id[:32]}", "see: ls /cloud/proc")


def _no_node(name: str) -> CloudError:
    return CloudError("absent", f"there is no node {name[:64]}", "see: ls /cloud/nodes")
