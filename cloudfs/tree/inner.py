"""A name space as a directory of another: /cloud/.ns/ID is the tree as object ID sees it.

Nobody lists `.ns`; a sandbox has its own part of it at /cloud.  Who looks through it
stays who it is, and binds made in it are the object's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cloudfs.errors import CloudError
from cloudfs.kernel.object import Object
from cloudfs.kernel.objects import Objects
from cloudfs.tree import numbers
from cloudfs.tree.api import DMDIR, PLAIN, Cues, DirHandle, Entries, Handle, Node, Ref, Stat, Wait
from cloudfs.tree.root import act
from cloudfs.tree.space import Attach, ErrLog, Space
from cloudfs.wait import then
from cloudfs.who import Who


class Inner(Node):
    """A file as it is seen through another name space.

    shown: the owner's name as stat tells it, where it is not the real one: in a sandbox
    the object's user has a uid of the object's own.
    """

    __slots__ = ("ref", "shown", "space")

    def __init__(self, space: Space, ref: Ref, shown: dict[str, str]) -> None:
        node = ref.node
        self.name, self.mode, self.qid = node.name, node.mode, node.qid
        self.uid, self.gid = node.uid, node.gid
        self.space = space
        self.ref = ref
        self.shown = shown

    @property
    def remote(self) -> bool:
        return self.ref.node.remote

    def stat(self) -> Stat | Wait[Stat]:
        def finish(stat: Stat) -> Stat:
            owner = stat.uid if self.uid == self.ref.node.uid else self.uid
            user = self.shown.get(owner, owner)
            return replace(stat, uid=user, gid=user, mode=self.mode)

        return then(self.ref.node.stat(), finish)

    def _through(self, at: Attach) -> Attach:
        return Attach(self.space, at.who)

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        step = self._through(at).walk(Ref(self.ref.node, self.ref.path, cues), name)
        return then(step, lambda ref: Inner(self.space, ref, self.shown))

    def ahead(self, names: Sequence[str], at: Attach, cues: Cues) -> Wait[None] | None:
        return self.ref.node.ahead(names, self._through(at), cues)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        opened = self.ref.node.open(mode, self._through(at), cues)
        return then(opened, self._wrap) if self.mode & DMDIR else opened

    def _wrap(self, handle: Handle) -> Handle:
        assert isinstance(handle, DirHandle)
        path, mounts = self.ref.path, self.space.mounts
        nodes: dict[str, Node] = {}
        for name, node in handle.entries.nodes.items():
            there = (*path, name)
            nodes[name] = Inner(self.space, Ref(mounts.get(there, node), there, PLAIN), self.shown)
        handle.close()
        return DirHandle(Entries(nodes))

    def wstat(self, changes: dict[str, Any], at: Attach) -> Wait[None] | None:
        return self.ref.node.wstat(changes, self._through(at))


class InnerSpaces(Node):
    """/.ns: for each object the tree as it sees it.  Walked, never listed."""

    __slots__ = ("_errors", "_objects", "_root", "_shown", "_spaces")

    def __init__(
        self, objects: Objects, errors: ErrLog, shown: Callable[[Object], dict[str, str]]
    ) -> None:
        self.name, self.mode, self.qid = ".ns", DMDIR | 0o111, numbers.named(".ns")
        self.uid = self.gid = objects.owner
        self._objects = objects
        self._errors = errors
        self._shown = shown
        self._root: Node | None = None
        self._spaces: dict[str, tuple[Object, Space]] = {}

    def serve(self, root: Node) -> None:
        """Tell it the tree, which has it as a part and so is made after it."""
        self._root = root

    def stat(self) -> Stat:
        return Stat(self.name, self.qid, self.mode, 0, self._objects.changed, self.uid, self.gid)

    def walk(self, name: str, at: Attach, cues: Cues) -> Node:
        made = self._objects.here(name)
        if made is None:
            raise CloudError("absent", f"there is no object {name[:32]}")
        found = self._spaces.get(name)
        if found is None or found[0] is not made:
            self._spaces = {id: s for id, s in self._spaces.items() if id in self._objects.all}
            found = self._spaces[name] = (made, self._make(made))
            found[1].groups_of = at.space.groups_of
        top = Inner(found[1], found[1].attach(at.who).root(), self._shown(made))
        # Closed by its mode and not by hiding it: what a lookup does not find for one
        # caller, the kernel forgets for all.
        top.mode, top.uid, top.gid = DMDIR | 0o500, made.user, made.user
        return top

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        return DirHandle(Entries({}))

    def _make(self, made: Object) -> Space:
        assert self._root is not None
        space = _Recorded(self._root, self._errors, self._objects, made)
        user = Attach(space, Who(made.user, None))
        for line in made.binds:
            try:
                act(user, line)
            except CloudError as error:
                user.note(error, ("ctl",))
        space.recording = True
        return space


class _Recorded(Space):
    """An object's name space: its binds are kept with the object."""

    def __init__(self, root: Node, errors: ErrLog, objects: Objects, made: Object) -> None:
        super().__init__(root, errors, made.user)
        self._objects = objects
        self._made = made
        self.recording = False

    def changed(self) -> None:
        if self.recording:
            self._made.binds = self.lines()
            self._objects.keep(self._made)
