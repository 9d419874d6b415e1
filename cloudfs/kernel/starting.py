"""Starting an object's program on this node's machine."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel.object import Object
from cloudfs.node.api import PATH, Launch, Running
from cloudfs.wait import Wait

if TYPE_CHECKING:
    from cloudfs.kernel.objects import Objects

log = logging.getLogger(__name__)


def told(objects: Objects, made: Object, argv: list[str]) -> Launch:
    """What the machine is told of it."""
    return Launch(
        id=made.id,
        dir=made.home,
        argv=argv,
        env=_environment(objects, made),
        cwd=made.dir,
        runtime=made.runtime,
        limits=objects.most_for(made.user).under(made.limits),
        nice=made.nice,
        stdio_limit=objects.bounds.stdio,
        net=made.net,
        cloud=objects.cloud(made.id) if made.runtime in ("sandbox", "vm") else "",
        lease=objects.guards.lease(made),
        user=made.user,
    )


def _environment(objects: Objects, made: Object) -> dict[str, str]:
    """What a program finds set, under what its owner set."""
    home = "/work" if made.runtime == "sandbox" else os.path.expanduser("~")
    base = {"PATH": PATH, "HOME": home, "USER": made.user, "LANG": "C.UTF-8"}
    return base | {"CLOUDFS_ID": made.id, "CLOUDFS_NODE": objects.node} | made.env


def start(objects: Objects, made: Object, launch: Launch, event: str) -> Wait[None]:
    """Have the machine start one that has become what `event` makes of it; the Wait ends when
    it runs.  Who asked may be flushed, the start goes on."""
    done = trio.Event()
    failed: list[CloudError] = []
    objects.spawn(_start, objects, made, launch, event, failed, done)

    async def run() -> None:
        await done.wait()
        if failed:
            raise failed[0]

    return Wait(run)


async def _start(
    objects: Objects,
    made: Object,
    launch: Launch,
    event: str,
    failed: list[CloudError],
    done: trio.Event,
) -> None:
    since = trio.current_time()
    try:
        running = await objects.host.start(launch)
    except Exception as fault:
        error = fault if isinstance(fault, CloudError) else CloudError("io", str(fault))
        if error is not fault:
            log.exception("object %s cannot be started", made.id)
        failed.append(error)
        made.why = error.why
        if event == "exec":
            made.argv = []
            until = trio.current_time() + objects.bounds.fresh_seconds
            objects.spawn(objects.go_unused, made, until)
        objects.become(made, "failed" if event == "exec" else "failed-again")
    else:
        objects.took_start(made.runtime, trio.current_time() - since)
        begun(objects, made, running)
    finally:
        done.set()


def begun(objects: Objects, made: Object, running: Running) -> None:
    """Its processes run."""
    made.running, made.exit, made.started = running, None, running.started
    made.sampled = 0.0, made.used
    made.came = ""
    objects.become(made, "began", pid=running.pid)
    objects.spawn(objects.watch, made)
