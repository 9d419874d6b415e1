"""Commands that take memory elsewhere, of an object or of all of a group: move, copy,
checkpoint, restore."""

from __future__ import annotations

import click

from cloudfs import ndb
from cloudfs.cli import Options
from cloudfs.cli.files import find_id, open_files, write_each
from cloudfs.cli.groups import conduct, group_of
from cloudfs.errors import CloudError

LONG = ".MaxTime=3600"  # seconds that another node may take: an image may be large


def _write(options: Options, id: str, *words: str, keep: bool = False) -> None:
    group = group_of(id)
    words = (words[0], "-k", *words[1:]) if keep else words
    line = " ".join(map(ndb.quote, words))
    if group:
        conduct(options, group, line)
        return
    if keep:
        raise CloudError("bad", "-k is for a group, as app=web", f"leave it out for {id}")
    files = open_files(options)
    write_each(files, (id,), lambda one: f"{LONG}/proc/{find_id(files, one)}/ctl", line)


@click.command()
@click.argument("id", metavar="ID|GROUP")
@click.argument("where", nargs=-1, metavar="NODE|EXPR...")
@click.option("-r", "--restart", is_flag=True, help="Start it anew there where it cannot be moved.")
@click.option("-k", "keep", is_flag=True, help="Of a group: go on after a failure.")
@click.option("--undo", is_flag=True, help="Of a group: bring back what was moved last.")
@click.pass_obj
def move(
    options: Options, id: str, where: tuple[str, ...], restart: bool, keep: bool, undo: bool
) -> None:
    """Have an object, or all of a group, go on at another node, with memory, output and id.

    WHERE is a node, or expressions as cluster=rome cpus>=4 of which the best node meets
    all.  Where it cannot be moved it runs on where it is, and the error says why; with -r
    it is ended and starts anew there, with its output so far and a sandbox's files, and
    without its memory.  What was done is in proc/ID/events: moved or restarted.  Writes
    move to proc/ID/ctl.

    GROUP is app=NAME, label=K=V, node=NAME, user=NAME, cluster=NAME or state=STATE: a few of
    its objects move at a time, in the order that `after` gives, and a bar shows how far that
    has come.  The first failure ends it, unless -k says to go on.  Writes move to the ctl of
    view/by-app/NAME and its like, and reads progress there.
    """
    if undo:
        if where or not group_of(id):
            raise CloudError(
                "bad", "--undo takes a group alone", "as in: cloudfs move --undo app=web"
            )
        conduct(options, group_of(id), "undo")
    elif not where:
        raise click.UsageError("Missing argument 'NODE|EXPR...'.")
    else:
        _write(options, id, "move", *(("-r",) if restart else ()), *where, keep=keep)


@click.command()
@click.argument("id")
@click.argument("where", nargs=-1, required=True, metavar="NODE|EXPR... [N]")
@click.pass_obj
def copy(options: Options, id: str, where: tuple[str, ...]) -> None:
    """Have copies of a running object go on, each an object of its own.

    ID may be a group, as of cloudfs move.  A number as the last word is how many.  Their
    ids are in proc/ID/events.  Writes copy to proc/ID/ctl.
    """
    _write(options, id, "copy", *where)


@click.command()
@click.argument("id")
@click.argument("name", default="last")
@click.pass_obj
def checkpoint(options: Options, id: str, name: str) -> None:
    """Keep an image of a running object in proc/ID/checkpoint/NAME; it runs on.

    ID may be a group, as of cloudfs move.  Writes checkpoint to proc/ID/ctl.
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
