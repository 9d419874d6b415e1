"""The process: python -m cloudfs.factotumd --socket PATH [--life SECONDS] [--idle SECONDS].

It serves its files on a unix socket that is its user's alone, until it is told to end, its time is
over, or nobody has asked it for anything for too long.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import stat
import sys
import time
from pathlib import Path

import trio

from cloudfs import config
from cloudfs.errors import CloudError
from cloudfs.factotumd.files import Agent, tree
from cloudfs.factotumd.harden import harden
from cloudfs.factotumd.held import Logins
from cloudfs.factotumd.state import Factotum
from cloudfs.tree.idmap import user_of
from cloudfs.tree.space import ErrLog, Space
from cloudfs.wire.listen import listen
from cloudfs.wire.server import Server

LIFE = 24 * 3600.0  # seconds
LOOK = 1.0  # seconds between looks at the clock
ANSWER = 0.1  # seconds that a last answer may take


def private_directory(path: Path) -> None:
    """Have a directory that is this user's alone.  CloudError("refused") for another's."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise CloudError("io", f"{path}: {error.strerror}", "set CLOUDFS_FACTOTUM") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise CloudError(
            "refused",
            f"{path} is not a directory that is yours alone",
            f"chmod 700 {path}, or set CLOUDFS_FACTOTUM to a file in one that is",
        )


async def run(path: Path, life: float, idle: float) -> None:
    """Serve until a signal, `end`, or the end of its time.  idle: 0 for no such limit."""
    lacks = harden()
    private_directory(path.parent)
    listener = listen(f"unix:{path}", mode=0o600)
    factotum, started = Factotum(), time.time()
    for lack in lacks:
        factotum.log.add("lack", why=lack)
    logins = Logins(factotum, str(path))
    async with trio.open_nursery() as nursery:
        scope = nursery.cancel_scope

        def end() -> None:
            nursery.start_soon(_end, scope)

        root = tree(Agent(factotum, logins, end), user_of(os.geteuid()), lambda: started)
        errors = ErrLog()
        await nursery.start(Server(lambda who: Space(root, errors)).serve, [listener])
        await nursery.start(logins.run)
        nursery.start_soon(_signalled, scope)
        while time.time() < started + life and not 0 < idle <= time.time() - factotum.used:  # noqa: ASYNC110
            await trio.sleep(LOOK)
        scope.cancel()


async def _end(scope: trio.CancelScope) -> None:
    """End once the one who asked for it has heard so."""
    await trio.sleep(ANSWER)
    scope.cancel()


async def _signalled(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as came:
        async for _ in came:
            scope.cancel()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("cloudfs.factotumd", description="One user's factotum.")
    parser.add_argument("--socket", type=Path, help="where it serves ($CLOUDFS_FACTOTUM)")
    parser.add_argument("--life", type=float, default=LIFE, help="seconds, then it ends")
    parser.add_argument("--idle", type=float, default=0.0, help="seconds without use, then it ends")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    path = (args.socket or config.factotum_socket()).absolute()
    failed: list[BaseException] = []
    try:
        trio.run(run, path, args.life, args.idle)
    except* CloudError as group:
        failed.extend(group.exceptions)
    for error in failed:
        print(f"cloudfs: factotum: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
