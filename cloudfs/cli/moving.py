"""Commands that take an object's memory elsewhere: move, copy, checkpoint, restore."""

from __future__ import annotations

import click

from cloudfs import ndb
from cloudfs.cli import Options
from cloudfs.cli.files import find_id, open_files, write_each

LONG = ".MaxTime=3600"  # seconds that another node may take: an image may be large


def _write(options: Options, id: str, *words: str) -> None:
    files = open_files(options)
    line = " ".join(map(ndb.quote, words))
    write_each(files, (id,), lambda one: f"{LONG}/proc/{find_id(files, one)}/ctl", line)


@click.command()
@click.argument("id")
@click.argument("where", nargs=-1, required=True, metavar="NODE|EXPR...")
@click.option("-r", "--restart", is_flag=True, help="Start it anew there where it cannot be moved.")
@click.pass_obj
def move(options: Options, id: str, where: tuple[str, ...], restart: bool) -> None:
    """Have an object go on at another node, with its memory, output and id.

    WHERE is a node, or expressions as cluster=rome cpus>=4 of which the best node meets
    all.  Where it cannot be moved it runs on where it is, and the error says why; with -r
    it is ended and starts anew there, with its output so far and a sandbox's files, and
    without its memory.  What was done is in proc/ID/events: moved or restarted.  Writes
    move to proc/ID/ctl.
    """
    _write(options, id, "move", *(("-r",) if restart else ()), *where)


@click.command()
@click.argument("id")
@click.argument("where", nargs=-1, required=True, metavar="NODE|EXPR... [N]")
@click.pass_obj
def copy(options: Options, id: str, where: tuple[str, ...]) -> None:
    """Have copies of a running object go on, each an object of its own.

    A number as the last word is how many.  Their ids are in proc/ID/events.  Writes copy
    to proc/ID/ctl.
    """
    _write(options, id, "copy", *where)


@click.command()
@click.argument("id")
@click.argument("name", default="last")
@click.pass_obj
def checkpoint(options: Options, id: str, name: str) -> None:
    """Keep an image of a running object in proc/ID/checkpoint/NAME; it runs on.

    Writes checkpoint to proc/ID/ctl.
    """
    _write(options, id, "checkpoint", name)


@click.command()
@click.argument("id")
@click.argument("name", default="last")
@click.pass_obj
def restore(options: Options, id: str, name: str) -> None:
    """Have an object go on from an image that it keeps, in place of what runs of it.

    NAME may be /PATH, a directory of the object's node with an image fetched by cp -r.
    Writes restore to proc/ID/ctl.
    """
    _write(options, id, "restore", name)
