"""cloudfs 9p: any 9P server's files, without a mount."""

from __future__ import annotations

import os
import stat as bits
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import click
import trio

from cloudfs.cli import Options, loop
from cloudfs.errors import CloudError
from cloudfs.kernel.bell import first
from cloudfs.tree.api import DMDIR, Stat
from cloudfs.wire import tool
from cloudfs.wire.client import Client
from cloudfs.wire.connect import connect
from cloudfs.wire.messages import VERSIONS
from cloudfs.wire.trace import Trace

Work = Callable[[Client], Awaitable[None]]
CHUNK = 1 << 16  # bytes read from standard input at a time


@click.group(name="9p")
@click.option("--dialect", type=click.Choice(sorted(VERSIONS.values())), default="9P2000.L",
              show_default=True, help="The first that is offered.")  # fmt: skip
@click.option("--trace", is_flag=True, help="Every message, on standard error.")
@click.pass_obj
def ninep(options: Options, dialect: str, trace: bool) -> None:
    """A small 9P client for any server.

    ADDR is unix:PATH, tcp:HOST:PORT or HOST:PORT.  PATH may hold cues, as in
    .follow/proc/ID/stdout.
    """
    if options.explain:
        raise click.UsageError("9p is what a shell line without a mount would use")
    click.get_current_context().obj = (dialect, trace)


def _with(context: tuple[str, bool], address: str, path: str, work: Work) -> None:
    """Run work with a connection to the server at an address."""
    dialect, traced = context
    trace = Trace()
    feed = trace.subscribe() if traced else None

    def show() -> None:
        for said in feed.take() if feed else ():
            click.echo(said, err=True)

    async def show_all() -> None:
        while feed is not None:
            await feed.wait()
            show()

    async def run() -> None:
        async with connect(address, version=dialect, trace=trace) as client:
            await first(partial(work, client), *([show_all] if traced else []))

    try:
        loop.run(run)
    except CloudError as error:
        error.path = error.path or path
        raise
    finally:
        show()


@ninep.command()
@click.option("-l", "long", is_flag=True, help="Mode, owner, group, length and time too.")
@click.argument("address", metavar="ADDR")
@click.argument("path", default="/")
@click.pass_obj
def ls(context: tuple[str, bool], long: bool, address: str, path: str) -> None:
    """List a directory, or one file."""

    async def work(client: Client) -> None:
        for stat in await tool.ls(client, path, long):
            click.echo(line(stat) if long else stat.name)

    _with(context, address, path, work)


@ninep.command()
@click.argument("address", metavar="ADDR")
@click.argument("path")
@click.pass_obj
def cat(context: tuple[str, bool], address: str, path: str) -> None:
    """Print a file."""

    async def work(client: Client) -> None:
        async for piece in tool.cat(client, path):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()

    _with(context, address, path, work)


@ninep.command()
@click.argument("address", metavar="ADDR")
@click.argument("path")
@click.pass_obj
def write(context: tuple[str, bool], address: str, path: str) -> None:
    """Write standard input to a file, which is made if it is not there."""

    async def typed() -> AsyncIterator[bytes]:
        while data := await trio.to_thread.run_sync(os.read, 0, CHUNK, abandon_on_cancel=True):
            yield data

    async def work(client: Client) -> None:
        await tool.write(client, path, typed())

    _with(context, address, path, work)


@ninep.command()
@click.argument("address", metavar="ADDR")
@click.argument("path", default="/")
@click.pass_obj
def stat(context: tuple[str, bool], address: str, path: str) -> None:
    """Print a file's attributes."""

    async def work(client: Client) -> None:
        found = await tool.stat(client, path)
        click.echo(f"{line(found)} qid={found.qid:x} version={found.vers}")

    _with(context, address, path, work)


def line(stat: Stat) -> str:
    """A file's attributes as ls -l shows them."""
    kind = bits.S_IFDIR if stat.mode & DMDIR else bits.S_IFREG
    mode = bits.filemode(kind | stat.mode & 0o777)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(stat.mtime))
    return f"{mode} {stat.uid:8} {stat.gid:8} {stat.length:10} {when} {stat.name}"
