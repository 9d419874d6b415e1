"""cloudfs mount --foreground: a 9P connection shown as a mount."""

from __future__ import annotations

import os
import signal
from functools import partial

import trio

from cloudfs.cli import loop
from cloudfs.cli.ninep import proving
from cloudfs.fuse.mount import mount
from cloudfs.kernel.bell import first
from cloudfs.tree.idmap import who_of
from cloudfs.tree.space import Space
from cloudfs.who import Who
from cloudfs.wire.connect import connect
from cloudfs.wire.remote import tree

LOOK = 1.0  # seconds between looks at the connection


def serve(address: str, directory: str, until_eof: bool) -> None:
    """Mount the tree at an address at a directory until it is unmounted, the connection
    ends, a signal comes, or, with until_eof, standard input ends."""
    loop.run(partial(_serve, address, directory, until_eof))


async def _serve(address: str, directory: str, until_eof: bool) -> None:
    async with (
        proving(address, False) as prove,
        connect(address, prove=prove) as client,
    ):
        space = Space(await tree(client))

        async def shown() -> None:
            await mount(space, directory, who_of=_who)

        async def lost() -> None:
            while not client.why:  # noqa: ASYNC110  a field is all that tells
                await trio.sleep(LOOK)

        await first(shown, lost, _signalled, *([_eof] if until_eof else []))


def _who(uid: int, gid: int, pid: int) -> Who:
    return who_of(uid, ())


async def _signalled() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as came:
        async for _ in came:
            return


async def _eof() -> None:
    """Wait until the pipe at standard input is closed."""
    while await trio.to_thread.run_sync(os.read, 0, 1024, abandon_on_cancel=True):
        continue
