"""cloudfs 9p: any 9P server's files, without a mount."""

from __future__ import annotations

import os
import stat as bits
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import click
import trio

from cloudfs import config, ndb
from cloudfs.cli import Options, loop
from cloudfs.errors import CloudError
from cloudfs.kernel.bell import first
from cloudfs.tree.api import DMDIR, Stat
from cloudfs.wire import tool
from cloudfs.wire.client import Client, Prove
from cloudfs.wire.connect import connect
from cloudfs.wire.messages import VERSIONS
from cloudfs.wire.prove import by_factotum
from cloudfs.wire.trace import Trace

Work = Callable[[Client], Awaitable[None]]
CHUNK = 1 << 16  # bytes read from standard input at a time


@click.group(name="9p")
@click.option("--dialect", type=click.Choice(sorted(VERSIONS.values())), default="9P2000.L",
              show_default=True, help="The first that is offered.")  # fmt: skip
@click.option("-a", "--auth", is_flag=True, help="Prove who you are, with your factotum.")
@click.option("-u", "--user", metavar="NAME", help="With that user's key; implies -a.")
@click.option("--trace", is_flag=True, help="Every message, on standard error.")
@click.pass_obj
def ninep(options: Options, dialect: str, auth: bool, user: str | None, trace: bool) -> None:
    """A small 9P client for any server.

    ADDR is unix:PATH, tcp:HOST:PORT, HOST:PORT or, for a node of the cloud, tls:HOST:PORT,
    to which one always proves who one is (cloudfs login).  PATH may hold cues, as in
    .follow/proc/ID/stdout.
    """
    if options.explain:
        raise click.UsageError("9p is what a shell line without a mount would use")
    start = f"user={ndb.quote(user)}" if user else ""
    click.get_current_context().obj = Context(dialect, auth or bool(user), start, trace)


@dataclass(frozen=True, slots=True)
class Context:
    """auth: whether to prove who one is.  start: with which key."""

    dialect: str
    auth: bool
    start: str
    trace: bool


def _with(context: Context, address: str, path: str, work: Work) -> None:
    """Run work with a connection to the server at an address."""
    trace = Trace()
    feed = trace.subscribe() if context.trace else None

    def show() -> None:
        for said in feed.take() if feed else ():
            click.echo(said, err=True)

    async def show_all() -> None:
        while feed is not None:
            await feed.wait()
            show()

    async def run() -> None:
        async with (
            proving(address, context.auth, context.start) as prove,
            connect(address, version=context.dialect, trace=trace, prove=prove) as client,
        ):
            await first(partial(work, client), *([show_all] if context.trace else []))

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
def ls(context: Context, long: bool, address: str, path: str) -> None:
    """List a directory, or one file."""

    async def work(client: Client) -> None:
        for stat in await tool.ls(client, path, long):
            click.echo(line(stat) if long else stat.name)

    _with(context, address, path, work)


@ninep.command()
@click.argument("address", metavar="ADDR")
@click.argument("path")
@click.pass_obj
def cat(context: Context, address: str, path: str) -> None:
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
def write(context: Context, address: str, path: str) -> None:
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
def stat(context: Context, address: str, path: str) -> None:
    """Print a file's attributes."""

    async def work(client: Client) -> None:
        found = await tool.stat(client, path)
        click.echo(f"{line(found)} qid={found.qid:x} version={found.vers}")

    _with(context, address, path, work)


@asynccontextmanager
async def proving(address: str, auth: bool, start: str = "") -> AsyncIterator[Prove | None]:
    """What proves who one is to the server at an address, None where that is not asked for."""
    if not auth and not address.startswith("tls:"):
        yield None
        return
    async with by_factotum(str(config.factotum_socket()), start) as prove:
        yield prove


def line(stat: Stat) -> str:
    """A file's attributes as ls -l shows them."""
    kind = bits.S_IFDIR if stat.mode & DMDIR else bits.S_IFREG
    mode = bits.filemode(kind | stat.mode & 0o777)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(stat.mtime))
    return f"{mode} {stat.uid:8} {stat.gid:8} {stat.length:10} {when} {stat.name}"
