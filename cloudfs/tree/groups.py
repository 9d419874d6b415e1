"""Verbs for many objects at once: ctl and progress of /cloud/view/by-WHAT/VALUE, and of a node.

The work is done by kernel/runs.py; here it is given members, and a way to them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from cloudfs.errors import CloudError
from cloudfs.kernel.catalog import Seen
from cloudfs.kernel.groups import BACKWARDS, MOST, Member
from cloudfs.kernel.object import Object
from cloudfs.kernel.runs import Runs
from cloudfs.kernel.verb import Verb, find, help_of, table
from cloudfs.kernel.verbs import MAX_AFTER, OBJECT
from cloudfs.tree.api import PLAIN, Node, Wait, Who
from cloudfs.tree.files import Ctl, Row
from cloudfs.tree.imports import Files
from cloudfs.tree.progress import Progress
from cloudfs.tree.space import Attach
from cloudfs.tree.whole import Whole

WHERE = 5.0  # seconds for an object's node to tell where it is


@dataclass(frozen=True, slots=True)
class Group:
    """The objects that have a value in an arrangement."""

    what: str
    value: str

    @property
    def path(self) -> str:
        """Its directory under /cloud."""
        return f"view/by-{self.what}/{self.value}"


class Way:
    """The objects of the whole cloud, through the tree; see kernel/runs.py."""

    def __init__(self, whole: Whole, proc: Node) -> None:
        self._whole = whole
        self._proc = proc

    async def write(self, id: str, line: str, who: Who, seconds: float) -> None:
        await Files(self._proc, who, seconds).write(f"{id}/ctl", f"{line}\n")

    async def where(self, id: str, who: Who) -> str:
        objects = self._whole.cloud.objects
        made = objects.all.get(id)
        if made is not None:
            return made.placed or objects.node
        try:
            return (await Files(self._proc, who, WHERE).text(f"{id}/node")).strip()
        except CloudError as error:
            return "" if error.kind == "absent" else objects.moved_to(id) or ""


class Groups:
    """The files of groups."""

    def __init__(self, whole: Whole, runs: Runs) -> None:
        self._whole = whole
        self._runs = runs
        self.rows: tuple[Row, ...] = (
            Ctl("ctl", 0o666, self._ctl, self._act),
            Progress(lambda group: (runs, group.path)),
        )

    def known(self, group: Group) -> bool:
        """Whether something was done to it that its progress tells."""
        return group.path in self._runs.all

    def _ctl(self, group: Group, at: Attach) -> str:
        """Read: the verbs it takes.  Write: a verb a line, done by all objects of the group that
        the writer may act on; the write ends when all are over."""
        return f"{group.path}\n" + "".join(f"{usage}\n" for usage in USAGES)

    def _act(self, group: Group, line: str, at: Attach) -> Wait[None] | None:
        words = line.split()
        if not words:
            return None
        if words[0] in OWN:
            found = find(OWN, line)
            assert found is not None
            result: Wait[None] | None = found[0].run(self._runs, group.path, at.who)
            return result
        return Wait(partial(self._all, group, line, at))

    async def _all(self, group: Group, line: str, at: Attach) -> None:
        cloud = self._whole.cloud
        if not cloud.alone():
            await cloud.refresh("objects", PLAIN.max_time)
        found = cloud.catalog.group(group.what, group.value)
        members = members_of(found.values(), cloud.objects.node, at.who)
        if found and not members:
            why = f"none of the {len(found)} objects of {group.path} is yours"
            raise CloudError("denied", why)
        if not members:
            raise CloudError("absent", f"there are no objects in {group.path}")
        run = self._runs.begin(group.path, line, members, at.who, cloud.attributes)
        if run is not None:
            await self._runs.ended(run).run()


def members_of(found: Iterable[Object | Seen], here: str, who: Who) -> list[Member]:
    """Those of some objects that the caller may act on, as their permissions will have it."""
    return [
        Member(one.id, here, one.state, one.app, tuple(one.after))
        if isinstance(one, Object)
        else Member(
            one.id,
            one.node,
            one.state,
            one.told["app"],
            tuple(one.told["after"].split()[:MAX_AFTER]),
        )
        for one in found
        if who.boss or one.user in who.groups
    ]


def _undo(runs: Runs, group: str, who: Who) -> Wait[None]:
    """Bring back what the last verb has moved, the last one first."""
    return runs.ended(runs.undo(group, who))


def _cancel(runs: Runs, group: str, who: Who) -> None:
    """Begin nothing more of what is being done; what is under way is finished."""
    runs.cancel(group, who)


OWN = table(Verb("undo", 0, 0, _undo), Verb("cancel", 0, 0, _cancel))
USAGES = (
    *(f"{name} [-k]{verb.usage[len(name) :]}" for name, verb in OBJECT.items()),
    *(verb.usage for verb in OWN.values()),
)

DOC = f"""\
Some objects, and verbs for all of them at once: one write moves an application.

  echo move paris-7 > ctl        # or move cluster=rome, copy, checkpoint, stop, kill ...
  cat progress                   # under .follow it goes on until all are over
  echo undo > ctl                # back to where they were

ctl takes the verbs of an object (see /cloud/proc/ID/help).  {MOST} objects are worked on at a
time, in the order that `after` in their ctl gives; {", ".join(sorted(BACKWARDS))} go the other
way.  The first failure ends it; after -k, as in move -k paris-7, it goes on.  Objects that
others own, that are there already or in no state for the verb are left out.  One verb at a time;
what was done is remembered when the daemon is stopped.  Beside these:
""" + help_of(OWN.values())
