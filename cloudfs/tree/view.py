"""/cloud/view: the same objects, arranged by user, application, state and label."""

from __future__ import annotations

from cloudfs.errors import CloudError
from cloudfs.kernel.objects import VIEWS, Objects
from cloudfs.tree import numbers
from cloudfs.tree.api import Node
from cloudfs.tree.proc import Proc
from cloudfs.tree.space import Attach
from cloudfs.tree.table import LiveDir, TableDir

DOC = """\
The same objects in other arrangements.  To see one of them as /cloud/proc:

  cloudfs bind /cloud/view/by-app /cloud/proc
"""


def views(proc: Proc) -> Node:
    """/cloud/view: a directory for each arrangement."""
    objects = proc.objects
    return TableDir(
        "view",
        (),
        objects,
        numbers.VIEW,
        objects.owner,
        lambda: objects.changed,
        more=[_view(proc, what) for what in VIEWS],
        doc=DOC + "".join(f"\nby-{what}/" for what in VIEWS),
    )


def _view(proc: Proc, what: str) -> Node:
    """by-WHAT: a directory for each value that some object has."""
    objects = proc.objects
    name = f"by-{what}"
    groups: dict[str, LiveDir] = {}

    def group(value: str) -> Node:
        if value not in groups:
            if len(groups) > 2 * len(objects.index[what]) + 64:
                groups.clear()
            groups[value] = _group(proc, what, value)
        return groups[value]

    def find(value: str, at: Attach) -> Node:
        if value not in objects.index[what]:
            raise CloudError("absent", f"no object has {what} {value[:64]}")
        return group(value)

    return LiveDir(
        name,
        (),
        objects,
        numbers.named("view", name),
        objects.owner,
        lambda: objects.changed,
        find=find,
        every=lambda: {value: group(value) for value in sorted(objects.index[what])},
        version=lambda: objects.moves,
        doc=f"A directory for each {what} of an object.",
    )


def _group(proc: Proc, what: str, value: str) -> LiveDir:
    objects: Objects = proc.objects

    def find(id: str, at: Attach) -> Node:
        made = objects.index[what].get(value, {}).get(id)
        if made is None:
            raise CloudError("absent", f"no object {id[:32]} has {what} {value}")
        return proc.dir_of(made)

    return LiveDir(
        value,
        (),
        objects,
        numbers.named("view", what, value),
        objects.owner,
        lambda: objects.changed,
        find=find,
        every=lambda: {
            id: proc.dir_of(made) for id, made in objects.index[what].get(value, {}).items()
        },
        version=lambda: objects.moves,
        doc=f"The objects that have this {what}.",
    )
