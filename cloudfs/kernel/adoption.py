"""What a daemon does with the objects that an earlier one left."""

from __future__ import annotations

import logging
import time
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudfs.kernel import images, lifecycle, restarts
from cloudfs.kernel.object import Object, add
from cloudfs.kernel.reserve import wanted
from cloudfs.node.api import Exit, Usage

if TYPE_CHECKING:
    from cloudfs.kernel.objects import Objects

log = logging.getLogger(__name__)


def sweep(objects: Objects, known: Container[str]) -> None:
    """Remove directories that no record names: starts that a dead daemon had begun
    before the record was written, and removals that it had not finished."""
    for home in objects.home.iterdir():
        if home.name not in known:
            _sweep_one(objects, home)


def _sweep_one(objects: Objects, home: Path) -> None:
    try:
        found = objects.host.adopt(home.name, home)
        if found is not None and not isinstance(found, Exit):
            found.kill("no record")
        objects.remove_home(home.name, home)
    except Exception:
        log.exception("%s cannot be removed", home)


def adopt(objects: Objects, id: str, record: dict[str, Any]) -> None:
    """Enter the object of a record, as what is found of it says."""
    made = Object.from_record(id, record, objects.next_number(), objects.home / id)
    objects.enter(made)
    if made.state == "placing":  # only one that a node was told to run has a record
        why = f"node {made.placed} was told to run it, and this one ended before it answered"
        made.why = why
        objects.become(made, "lose", why=why)
    if made.state == "restoring" and made.came:
        objects.reserve.count(id, wanted(made.limits))
        objects.spawn(objects.arrivals.find, made)
    elif made.state in ("moving", "checkpointing"):
        objects.reserve.count(id, wanted(made.limits))
        objects.spawn(objects.departures.find, made)
    elif made.state == "lost" and made.placed and keeps_frozen(objects, made):
        objects.spawn(objects.departures.find, made)
    elif made.state == "lost" and made.placed:
        if objects.handover is not None:
            objects.handover.seek(made)
    elif made.state in lifecycle.ALIVE:
        objects.reserve.count(id, wanted(made.limits))
        images.clear(made.home)
        _find_again(objects, made)
    else:
        images.clear(made.home)
    if made.state == "exited" and made.exit is not None and made.restart != "never":
        objects.spawn(restarts.follow, objects, made, made.exit)


def keeps_frozen(objects: Objects, made: Object) -> bool:
    """Whether one that is lost, as it may go on elsewhere, is frozen here."""
    return (made.home / "checkpoint").is_dir() and objects.host.adopt(
        made.id, made.home
    ) is not None


def _find_again(objects: Objects, made: Object) -> None:
    """Watch the processes of one that ran, or take note of its end."""
    try:
        found = objects.host.adopt(made.id, made.home)
    except Exception as error:  # one object's trouble must not stop the node
        log.exception("object %s cannot be adopted", made.id)
        made.why = f"what it left cannot be read: {error}"
        objects.become(made, "lose", why=made.why)
        return
    if isinstance(found, Exit):
        made.used = add(made.used, Usage(user=found.user, sys=found.sys))
        objects.spawn(objects.ended, made, found)
    elif found is not None:
        made.running, made.started = found, found.started
        if made.state == "starting":
            objects.become(made, "began", pid=found.pid)
        objects.spawn(objects.watch, made)
        objects.guards.look(made)
    else:
        made.why = "the node was restarted, or its daemon died while it was starting"
        objects.become(made, "lose", why=made.why)
        lost = Exit(0, None, None, 0.0, 0.0, 0.0, time.time(), made.why)
        if lifecycle.restart_pause(made.restart, lost, False, 0) is not None:
            objects.spawn(restarts.retry_lost, objects, made)
