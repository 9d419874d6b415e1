"""/cloud/view: the same objects, arranged by node, application, user, cluster, state, label."""

from __future__ import annotations

from functools import partial

from cloudfs.errors import CloudError
from cloudfs.kernel.catalog import VIEWS
from cloudfs.tree import numbers
from cloudfs.tree.api import Cues, Node, Wait
from cloudfs.tree.groups import DOC as GROUP_DOC
from cloudfs.tree.groups import Group, Groups
from cloudfs.tree.space import Attach
from cloudfs.tree.table import LiveDir, TableDir
from cloudfs.tree.whole import Whole
from cloudfs.wait import then

DOC = """\
The same objects in other arrangements.  To see one of them as /cloud/proc:

  cloudfs bind /cloud/view/by-app /cloud/proc

Each has a ctl that takes verbs for all of its objects at once: see its file help.
"""


def views(whole: Whole, groups: Groups) -> Node:
    """/cloud/view: a directory for each arrangement."""
    catalog = whole.cloud.catalog
    return TableDir(
        "view",
        (),
        catalog,
        numbers.VIEW,
        whole.cloud.machine.owner,
        lambda: catalog.changed,
        more=[_view(whole, groups, what) for what in VIEWS],
        doc=DOC + "".join(f"\nby-{what}/" for what in VIEWS),
    )


def _view(whole: Whole, files: Groups, what: str) -> Node:
    """by-WHAT: a directory for each value that some object has."""
    catalog = whole.cloud.catalog
    name = f"by-{what}"
    groups: dict[str, LiveDir] = {}

    def group(value: str) -> Node:
        if value not in groups:
            if len(groups) > 1024:
                groups.clear()
            groups[value] = _group(whole, files, Group(what, value))
        return groups[value]

    def holds(value: str) -> bool:
        return catalog.holds(what, value) or files.known(Group(what, value))

    def find(value: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        return whole.look(
            "objects",
            lambda: group(value) if holds(value) else None,
            cues,
            CloudError("absent", f"no object has {what} {value[:64]}"),
        )

    return LiveDir(
        name,
        (),
        catalog,
        numbers.named("view", name),
        whole.cloud.machine.owner,
        lambda: catalog.changed,
        find=find,
        every=lambda: {value: group(value) for value in catalog.values(what)},
        version=lambda: catalog.version,
        refresh=partial(whole.refresh, "objects"),
        doc=f"A directory for each {what} of an object.",
    )


def _group(whole: Whole, files: Groups, group: Group) -> LiveDir:
    catalog, what, value = whole.cloud.catalog, group.what, group.value

    def known(id: str) -> Node | None:
        made = catalog.member(what, value, id)
        return None if made is None else whole.dir_of(made)

    def find(id: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        absent = CloudError("absent", f"no object {id[:32]} has {what} {value}")
        found = whole.look("objects", partial(known, id), cues, absent)
        return then(found, partial(whole.roaming, id)) if cues.follow else found

    return LiveDir(
        value,
        files.rows,
        group,
        numbers.named("view", what, value),
        whole.cloud.machine.owner,
        lambda: catalog.changed,
        find=find,
        every=lambda: {id: whole.dir_of(made) for id, made in catalog.group(what, value).items()},
        version=lambda: catalog.version,
        refresh=partial(whole.refresh, "objects"),
        doc=GROUP_DOC,
    )
