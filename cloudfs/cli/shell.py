"""cloudfs shell: a mount of one's own, in a mount name space of one's own.

The mount is made outside, by a process of its own that speaks 9P to the node: its
connection is the name space.  The shell's process then leaves its mount name space for
a new one, shows the mount at the usual place there, and becomes the shell.  So no
right is needed that fusermount3 does not give, and the shell keeps none.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import tempfile
from pathlib import Path

import click

from cloudfs import config
from cloudfs.cli import Options
from cloudfs.cli.attach import attached
from cloudfs.cli.files import Mounted, mount_point, socket_path
from cloudfs.errors import CloudError

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000  # sched.h
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000  # sys/mount.h


@click.command()
@click.option("-c", "line", metavar="LINE", help="Run this shell line instead of a prompt.")
@click.pass_obj
def shell(options: Options, line: str | None) -> None:
    """A shell that sees the tree in a name space of its own.

    What bind and unmount change in it nobody else sees, and it goes when the shell
    ends.  It begins with the binds of the mount it is started from.
    """
    here = mount_point()
    point = here or str(config.mount_dir())
    if options.explain:
        click.echo(f"d=$(mktemp -d); cloudfs mount unix:{socket_path()} $d")
        who = "" if os.geteuid() == 0 else "--user --map-root-user "
        click.echo(f'unshare {who}--mount sh -c "mount --bind $d {point} && exec {_program()}"')
        click.echo("cloudfs unmount $d; rmdir $d")
        return
    binds = Mounted(here).read("ns") if here else ""
    with tempfile.TemporaryDirectory(prefix="cloudfs-shell-") as folder:
        private = Path(folder) / "mnt"
        private.mkdir()
        with attached(f"unix:{socket_path()}", str(private)):
            own = Mounted(str(private))
            for bind in binds.splitlines():
                own.write("ctl", bind)
            status = _run(str(private), point, command(line, Path(folder)))
    raise SystemExit(status)


def _program() -> str:
    return os.environ.get("SHELL") or "/bin/sh"


def command(line: str | None, folder: Path) -> list[str]:
    """The shell to run, with a prompt that shows where one is."""
    program = _program()
    if line is not None:
        return [program, "-c", line]
    os.environ["PS1"] = "(cloud) " + os.environ.get("PS1", r"\w\$ " if "bash" in program else "$ ")
    if Path(program).name != "bash":
        return [program, "-i"]
    start = folder / "bashrc"  # bash's own would set the prompt again
    start.write_text('[ -r ~/.bashrc ] && . ~/.bashrc\nPS1="(cloud) ${PS1#(cloud) }"\n')
    return [program, "--rcfile", str(start), "-i"]


def _run(private: str, point: str, command: list[str]) -> int:
    """Run the command where the mount `private` is seen at point; its exit status."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            os.environ["CLOUDFS_MOUNT"] = _enter(private, point)
            os.execvp(command[0], command)  # noqa: S606
        except OSError as error:
            os.write(writer, f"{error.errno} {error.filename or command[0]}".encode())
        os._exit(127)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode(errors="replace")  # ends at exec
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is the shell's
    try:
        _, status = os.waitpid(child, 0)
    finally:
        signal.signal(signal.SIGINT, before)
    if said:
        number, _, what = said.partition(" ")
        raise CloudError("io", f"{what}: {os.strerror(int(number))}", "see: cloudfs doctor")
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _enter(private: str, point: str) -> str:
    """Go to a new mount name space in which `private` is seen at point; where the mount
    is then: private itself, if there is no directory at point."""
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", CLONE_NEWNS | (CLONE_NEWUSER if uid else 0))
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    if not os.path.isdir(point):
        return private
    _call("mount", os.fsencode(private), os.fsencode(point), None, MS_BIND, None)
    return point


def _call(name: str, *args: object) -> None:
    """A function of the C library; OSError if it fails."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*args) != 0:
        raise OSError(ctypes.get_errno() or errno.EIO, "", name)
