"""A small object started and ended on this machine, as the node would do it."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import trio

from cloudfs.cli import loop
from cloudfs.errors import CloudError
from cloudfs.kernel.object import new_id
from cloudfs.node.api import Launch
from cloudfs.node.host import RealHost

LONGEST = 30.0  # seconds for it to start and end


def try_out(runtime: str) -> None:
    """Run `true` as an object of that runtime, and leave nothing behind.  Raises
    CloudError with what is in the way."""
    with tempfile.TemporaryDirectory(prefix="cloudfs-doctor-") as folder:
        state = Path(folder)
        state.chmod(0o711)  # a sandbox's user must pass
        host = RealHost(state, "doctor")
        try:
            loop.run(partial(_run, host, state, runtime))
        finally:
            host.groups.remove()
            host.close()


async def _run(host: RealHost, state: Path, runtime: str) -> None:
    id = new_id()
    home = state / id
    with trio.move_on_after(LONGEST):
        running = await host.start(Launch(id, home, ["/usr/bin/true"], {}, "", runtime))
        end = await running.ended()
        host.discard(id, home)
        if end.code != 0:
            raise CloudError("io", f"it ended with {end.signal or end.code}: {end.why}")
        return
    raise CloudError("timeout", f"it did not end within {LONGEST:g} s")
