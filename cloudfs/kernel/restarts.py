"""Starting again what its `restart` policy wants to run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel import lifecycle
from cloudfs.kernel.object import Object
from cloudfs.node.api import Exit

if TYPE_CHECKING:
    from cloudfs.kernel.objects import Objects


async def follow(objects: Objects, made: Object, end: Exit) -> None:
    """After an end: start it again after a pause, as often as it takes, if it should be."""
    pause = lifecycle.restart_pause(made.restart, end, bool(made.asked), made.pause)
    failed = ""
    while pause is not None:
        made.pause = pause
        made.why = f"{failed}starts again in {pause:g} s"
        objects.keep(made)
        with trio.move_on_after(pause):
            while _waits(made):
                await made.bell.wait()
        if not _waits(made):
            if made.state == "exited":  # killed, or its policy was changed
                made.why = made.asked or end.why
                objects.keep(made)
            return
        try:
            await objects.again(made).run()
            return
        except CloudError as error:
            failed = f"start again failed: {error}; "
            pause = min(lifecycle.LAST_PAUSE, pause * 2)


def _waits(made: Object) -> bool:
    """Whether an object that ended is still to be started again."""
    return made.state == "exited" and not made.asked and made.restart != "never"


async def retry_lost(objects: Objects, made: Object) -> None:
    """Start one again that was lost with its daemon."""
    try:
        await objects.again(made).run()
    except CloudError as error:
        made.why = f"start again failed: {error}"
        objects.keep(made)
