"""Mounts and name spaces: mount, unmount, bind, ns."""

from __future__ import annotations

import os
import shlex

import click

from cloudfs import ndb
from cloudfs.cli import Options, attach
from cloudfs.cli.files import Files, Mounted, Shell, mount_point, socket_path
from cloudfs.errors import CloudError
from cloudfs.fuse import stale


def place(path: str) -> tuple[str | None, str]:
    """The mount of cloudfs that a path is in, and the path within it.

    A path in none is one of the tree itself: /cloud/proc and /proc are the same."""
    full = os.path.abspath(path)
    points = [m.directory for m in stale.mounts() if m.ours]
    for point in sorted(points, key=len, reverse=True):
        if full == point or full.startswith(f"{point}/"):
            return point, full[len(point) :] or "/"
    return None, full.removeprefix("/cloud") or "/"


def name_space(options: Options, point: str | None) -> Files:
    """The files of the mount at point, else of this user's mount: only a mount keeps a
    name space for longer than one command."""
    point = point or mount_point()
    if point is None:
        raise CloudError(
            "absent", "no tree is mounted, so there is no name space", "type: cloudfs up"
        )
    files = Mounted(point)
    return Shell(files, point) if options.explain else files


@click.command()
@click.option("--foreground", is_flag=True, help="Serve it until it is unmounted.")
@click.option("--until-eof", is_flag=True, hidden=True)
@click.argument("places", nargs=-1, required=True, metavar="[ADDR] DIR")
@click.pass_obj
def mount(options: Options, foreground: bool, until_eof: bool, places: tuple[str, ...]) -> None:
    """Mount the tree at a 9P address, or else this machine's, at a directory.

    The mount is one connection and so has a name space of its own.  Its rights are
    yours there, so nobody else may use it.

    ADDR is unix:PATH, tcp:HOST:PORT, HOST:PORT or, once you have logged in, tls:HOST:PORT.
    """
    if len(places) > 2:
        raise click.UsageError("mount takes a directory, or an address and one")
    address = places[0] if len(places) == 2 else f"unix:{socket_path()}"
    directory = os.path.abspath(places[-1])
    if options.explain:
        click.echo(shlex.join(["cloudfs", "mount", "--foreground", address, directory]) + " &")
    elif foreground:
        from cloudfs.cli.mounter import serve  # imports trio and pyfuse3

        serve(address, directory, until_eof)
    else:
        attach.start(address, directory)


@click.command()
@click.option("-a", "after", is_flag=True, help="After what is there, in a union.")
@click.option("-b", "before", is_flag=True, help="Before what is there, in a union.")
@click.option("-c", "creates", is_flag=True, help="New files go into NEW.")
@click.argument("new")
@click.argument("old")
@click.pass_obj
def bind(options: Options, after: bool, before: bool, creates: bool, new: str, old: str) -> None:
    """Make NEW appear at OLD, in the name space of the mount that OLD is in.

    As in: cloudfs bind /cloud/view/by-app /cloud/proc

    Writes bind NEW OLD to the ctl of that mount.  For a name space that only you see,
    see cloudfs shell.
    """
    if after and before:
        raise click.UsageError("NEW goes before or after what is there, not both")
    point, target = place(old)
    other, source = place(new)
    if point and other and point != other:
        raise CloudError(
            "xdev", f"{new} is in the mount at {other}, {old} in the one at {point}",
            "bind within one mount, or as root: mount --bind",
        )  # fmt: skip
    flags = "a" * after + "b" * before + "c" * creates
    words = ["bind", *([f"-{flags}"] if flags else []), f"/cloud{source}", f"/cloud{target}"]
    try:
        name_space(options, point or other).write("ctl", " ".join(map(ndb.quote, words)))
    except CloudError as error:
        if error.kind == "absent" and not error.why:
            raise CloudError("absent", f"bind: {new} or {old} is not there") from None
        raise


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="[NEW] OLD")
@click.pass_obj
def unmount(options: Options, paths: tuple[str, ...]) -> None:
    """Undo the bind of NEW on OLD, or all on OLD; or end the mount at a directory.

    Writes unmount [NEW] OLD to the ctl of the mount that OLD is in.
    """
    if len(paths) > 2:
        raise click.UsageError("unmount takes a directory, or [NEW] OLD")
    here = stale.mounted_at(paths[0]) if len(paths) == 1 else None
    if here is not None and here.ours:
        if options.explain:
            tool = "umount" if os.geteuid() == 0 else "fusermount3 -u"
            click.echo(f"{tool} {here.directory}")
        else:
            stale.unmount(here.directory)
        return
    point, _ = place(paths[-1])
    words = [f"/cloud{place(path)[1]}" for path in paths]
    name_space(options, point).write("ctl", " ".join(["unmount", *map(ndb.quote, words)]))


@click.command()
@click.pass_obj
def ns(options: Options) -> None:
    """Print the name space of the mount: the lines that rebuild it when written to ctl."""
    click.echo(name_space(options, None).read("ns"), nl=False)
