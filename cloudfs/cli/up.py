"""cloudfs up and down: the daemon of this machine."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from cloudfs import config, ndb
from cloudfs.cli import Options
from cloudfs.cli.files import Files, daemon_pid, mount_point, open_files
from cloudfs.cli.nodes import own
from cloudfs.errors import CloudError
from cloudfs.fuse import stale

START = 30.0  # seconds for a daemon to answer
STOP = 20.0  # seconds for one to end
GREETING = b"\x13\0\0\0d\xff\xff\0\0\x01\0\x06\x009P2000"  # Tversion, msize 64 KiB


@click.command()
@click.option("--mount", "mount", metavar="DIR", help="Where to mount the tree.")
@click.option("--no-mount", is_flag=True, help="Only serve it, on the node's socket.")
@click.option("--node", metavar="NAME", help="The node's name; else the host's.")
@click.option("--cluster", metavar="NAME", help="The cluster it is in; else as last time.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where other nodes reach it; for a cloud of more than one.",
)
@click.option("--tcp", metavar="HOST:PORT", help="Serve 9P there too; loopback only.")
@click.option("--trace", is_flag=True, help="Write every 9P message to the log.")
@click.pass_obj
def up(
    options: Options,
    mount: str | None,
    no_mount: bool,
    node: str | None,
    cluster: str | None,
    listen: str | None,
    tcp: str | None,
    trace: bool,
) -> None:
    """Start this machine's node and mount its tree.

    Root's node serves the whole machine at /cloud; another user's is that user's own,
    at ~/cloud.  It writes its log to the file log in its state directory.

    With --listen it can be a node among others, once it has begun a cloud (cloudfs init) or
    joined one (cloudfs join).  It then listens there and at the few ports above, TCP and
    UDP; the address is kept for the next time.
    """
    state = config.state_dir()
    point = None if no_mount else Path(mount).absolute() if mount else config.mount_dir()
    command = [sys.executable, "-m", "cloudfs.daemon", "--state", str(state)]
    command += ["--no-mount"] if point is None else ["--mount", str(point)]
    given = {"--node": node, "--cluster": cluster, "--listen": listen, "--tcp": tcp}
    for name, value in given.items():
        command += [name, value] if value else []
    command += ["--trace"] if trace else []
    if options.explain:
        places = [str(state), *([str(point)] if point else [])]
        click.echo(f"mkdir -p {shlex.join(places)}")
        log = shlex.quote(str(state / "log"))
        click.echo(f"setsid {shlex.join(command)} </dev/null >>{log} 2>&1 &")
        return
    if answers(config.socket_path(state)):
        click.echo(f"the node is up already{_where(mount_point())}")
        if no_mount or mount or any(given.values()) or trace:
            click.echo("cloudfs: for other options first type: cloudfs down", err=True)
        return
    _start(command, state, point)
    click.echo(f"the node is up{_where(str(point) if point else None)}")


def _where(point: str | None) -> str:
    return f"; its tree is at {point}" if point else "; its tree is not mounted"


def answers(path: Path, seconds: float = 2.0) -> bool:
    """Whether a 9P server answers at a unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(str(path))
            connection.sendall(GREETING)
            return connection.recv(64)[4:5] == b"e"  # Rversion
        except OSError:
            return False


def stands(point: Path) -> bool:
    """Whether a tree of ours is mounted there and answers; that of a dead daemon does not."""
    here = stale.mounted_at(point)
    return here is not None and here.ours and stale.state(here.directory) == "live"


def _start(command: list[str], state: Path, point: Path | None) -> None:
    """Start the daemon and see it answer; raises with the end of its log if it does not."""
    try:
        if point is not None:
            # A dead daemon's mount is there and says it is not; the new daemon clears it.
            with contextlib.suppress(FileExistsError):
                point.mkdir(parents=True)
        state.mkdir(mode=0o711, parents=True, exist_ok=True)
        with open(state / "log", "ab") as log:
            log_start = log.tell()
            daemon = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
    except OSError as error:
        raise CloudError(
            "denied",
            f"{error.filename}: {error.strerror}",
            "set CLOUDFS_STATE and CLOUDFS_MOUNT to places of yours",
        ) from None

    def ready() -> bool:
        if daemon.poll() is not None:
            raise CloudError(
                "io",
                f"the node ended at once:\n{_tail(state / 'log', log_start)}",
                "see: cloudfs doctor",
            )
        return answers(config.socket_path(state)) and (point is None or stands(point))

    if not until(ready, START):
        daemon.terminate()
        raise CloudError(
            "timeout",
            f"the node did not answer in {START:g} s:\n{_tail(state / 'log', log_start)}",
            "see: cloudfs doctor",
        )


def until(true: Callable[[], bool], seconds: float) -> bool:
    """Ask until it is true; False if it is not after so many seconds."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _tail(log: Path, start: int) -> str:
    """The last lines of a log, from start on."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-8:])


@click.command()
@click.option("--objects", is_flag=True, help="Kill your objects on it first.")
@click.pass_obj
def down(options: Options, objects: bool) -> None:
    """Stop the node and end its mount; its objects go on.

    A node started again finds its objects, their output and their exit codes.  With
    --objects those that run on this node end first, and none waits to be started again.
    """
    state = config.state_dir()
    if options.explain:
        if objects:
            files = open_files(options)
            each = f"{shlex.quote(str(config.mount_dir()))}/nodes/{own(files)}/proc/*/ctl"
            click.echo(f"for ctl in {each}; do [ ! -e $ctl ] || echo kill > $ctl; done 2>/dev/null")
        click.echo(f"kill $(cat {shlex.quote(str(state / 'pid'))})")
        return
    pid = daemon_pid(state)
    if pid is None:
        click.echo("the node is not up")
        return
    if objects:
        _kill_objects(options)
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise CloudError(
            "refused", f"the node (pid {pid}) is not yours", "type it as root"
        ) from None
    if not until(lambda: daemon_pid(state) is None, STOP):
        raise CloudError(
            "timeout", f"the node (pid {pid}) did not end in {STOP:g} s", f"kill -9 {pid} ends it"
        )
    click.echo("the node is down")


def _kill_objects(options: Options) -> None:
    """Kill all objects of this node, until none lives; tell of those that may not be."""
    files = open_files(options)
    place = f"nodes/{own(files)}/proc"
    over: set[str] = set()  # that end, or cannot be made to

    def none_left() -> bool:
        for id in files.list(place):
            if id not in over and id != "help" and _end(files, f"{place}/{id}"):
                over.add(id)
        return over.issuperset(name for name in files.list(place) if name != "help")

    if not until(none_left, STOP):
        click.echo(f"cloudfs: some objects did not end in {STOP:g} s", err=True)
    files.close()


def _end(files: Files, path: str) -> bool:
    """Kill an object, and one that waits for its restart; whether that is all to be done."""
    try:
        state = ndb.parse(files.read(f"{path}/status"))["state"]
        restarts = ndb.parse(files.read(f"{path}/spec"))["restart"] != "never"
        ended = state == "lost" or (state == "exited" and not restarts)
        if not ended:
            files.write(f"{path}/ctl", "kill")
        return state in ("new", "exited", "lost")
    except CloudError as error:
        if error.kind in ("busy", "stale"):  # it went on meanwhile: look again
            return False
        if error.kind != "absent":
            click.echo(f"cloudfs: {error}", err=True)
        return True
