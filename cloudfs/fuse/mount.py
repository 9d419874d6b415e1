"""A Space mounted on a directory, from the check of the directory to the clean end."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyfuse3
import trio

from cloudfs.errors import CloudError
from cloudfs.fuse import sweep
from cloudfs.fuse.callers import WhoOf
from cloudfs.fuse.interrupt import ROOM
from cloudfs.fuse.operations import VALID, CloudOperations
from cloudfs.fuse.stale import NAME, mounted_at
from cloudfs.fuse.stale import clear as clear
from cloudfs.fuse.stale import stale_mounts as stale_mounts
from cloudfs.fuse.stale import unmount as unmount
from cloudfs.fuse.turns import SPARE, Turns
from cloudfs.tree.idmap import user_of
from cloudfs.tree.space import Space

_log = logging.getLogger(__name__)

_DEVICE = "/dev/fuse"
_CONF = Path("/etc/fuse.conf")
_WORKERS = ROOM + 32  # one for each request that blocks, and some for those that do not
_serving: list[str] = []  # pyfuse3 keeps its session in module globals: one a process


async def mount(
    space: Space,
    directory: str | os.PathLike[str],
    *,
    who_of: WhoOf,
    valid: float = VALID,
    task_status: trio.TaskStatus[CloudOperations] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Show a space at a directory until it is unmounted or this is cancelled.

    A stale mount of ours at the directory is cleared first.  As root, or where
    /etc/fuse.conf has user_allow_other, all users may use it, each as `who_of(uid, gid,
    pid)` says.  valid: seconds the kernel may keep attributes.  Raises CloudError if it
    cannot be mounted; started once it is.  The calling process must not use the
    directory in the thread that runs this: it would wait for itself.
    """
    path = await trio.to_thread.run_sync(prepare, directory)
    turns = Turns()
    operations = CloudOperations(space, who_of, valid, turns.pass_on)
    with _session(operations, turns, path) as device:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(operations.blocked.watch)
                nursery.start_soon(sweep.run, operations)
                nursery.start_soon(_end_with, device, operations, turns)
                task_status.started(operations)
                await _serve()
                nursery.cancel_scope.cancel()
        finally:
            await operations.close()


async def _serve() -> None:
    """Answer requests until the mount is gone."""
    try:
        await pyfuse3.main(min_tasks=SPARE, max_tasks=_WORKERS)
    except* OSError as group:
        _, other = group.split(lambda error: getattr(error, "errno", 0) == errno.ECONNABORTED)
        if other is not None:
            raise other
        _log.warning("the connection to the kernel was cut, as umount -f does")


def prepare(directory: str | os.PathLike[str]) -> str:
    """The absolute path of a directory that can be mounted on, cleared of a stale mount.

    Takes up to some seconds.  Raises CloudError, with what to do, if it cannot."""
    _check_machine()
    clear(directory)
    here = mounted_at(directory)
    name = os.fspath(directory)
    if here is not None:
        what = NAME if here.ours else here.type
        raise CloudError(
            "busy",
            f"{what} is mounted on {name} already",
            f"cloudfs unmount {name}, or choose another directory",
        )
    try:
        status = os.stat(name)
        used = next(iter(os.scandir(name)), None)
    except FileNotFoundError:
        raise CloudError("absent", f"there is no directory {name}", f"mkdir -p {name}") from None
    except NotADirectoryError:
        raise CloudError("notdir", f"{name} is no directory", "choose a directory") from None
    except PermissionError:
        raise CloudError("denied", f"{name} may not be read", "choose one of your own") from None
    if used is not None:
        raise CloudError("notempty", f"{name} is not empty", "choose an empty directory")
    if os.geteuid() not in (0, status.st_uid):
        raise CloudError(
            "denied",
            f"{name} belongs to {user_of(status.st_uid)}",
            "choose a directory of your own, such as ~/cloud",
        )
    return os.path.realpath(name)


def _check_machine() -> None:
    if not os.path.exists(_DEVICE):
        raise CloudError(
            "unsupported",
            f"there is no {_DEVICE} here",
            f"modprobe fuse; in a container start it with --device {_DEVICE}",
        )
    if os.geteuid() == 0:
        return  # mounts without help
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        raise CloudError("denied", f"{_DEVICE} may not be used", f"as root: chmod 666 {_DEVICE}")
    if not shutil.which("fusermount3"):
        raise CloudError("unsupported", "fusermount3 is not installed", "apt-get install fuse3")


def options(space: Space) -> set[str]:
    """The mount options.

    The kernel checks permissions too wherever several users come by: only so does it
    not ask us on behalf of one who may not search a directory, and an answer "no"
    would unhash that directory's files for everybody else.  A tree that is all remote
    is reached as whoever mounts it, and so is for nobody else, root included."""
    chosen = {f"fsname={NAME}", f"subtype={NAME}"}
    if not space.root.remote and (os.geteuid() == 0 or _users_may_share()):
        chosen |= {"allow_other", "default_permissions"}
    return chosen


def _users_may_share() -> bool:
    try:
        lines = _CONF.read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


@contextlib.contextmanager
def _session(operations: CloudOperations, turns: Turns, path: str) -> Iterator[int]:
    """pyfuse3's one session, mounted; yields the descriptor that requests come by."""
    if _serving:
        raise CloudError(
            "busy",
            f"this process serves {_serving[0]} already, and one process can serve one mount",
            "start another: cloudfs mount ADDR DIR",
        )
    before = _devices()
    trio_of_pyfuse3 = pyfuse3.trio  # type: ignore[attr-defined]
    pyfuse3.trio = turns  # type: ignore[attr-defined]
    _serving.append(path)
    try:
        try:
            pyfuse3.init(operations, path, options(operations.space))
        except RuntimeError as error:
            if "mount" in str(error):  # the session is made and must go
                pyfuse3.close(unmount=False)
            raise CloudError("io", f"{path} cannot be mounted: {error}", "see: cloudfs doctor")
        operations.blocked.device = _device_at(path)
        try:
            yield max(_devices() - before)
        finally:
            # What is there by now may be another daemon's, if ours was detached.
            pyfuse3.close(unmount=_device_at(path) == operations.blocked.device)
    finally:
        _serving.clear()
        pyfuse3.trio = trio_of_pyfuse3  # type: ignore[attr-defined]


def _device_at(path: str) -> str:
    here = mounted_at(path)
    return here.device if here is not None else ""


def _devices() -> set[int]:
    """Our descriptors of /dev/fuse; pyfuse3 does not tell which is its own."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == _DEVICE:
                found.add(int(name))
    return found


async def _end_with(device: int, operations: CloudOperations, turns: Turns) -> None:
    """When the mount is taken away under us, end the requests that block and the workers
    that wait: pyfuse3 ends only after the last of them."""
    with select.epoll() as epoll:
        epoll.register(device, 0)  # an error, which is how it ends, is always told
        await trio.lowlevel.wait_readable(epoll.fileno())
    operations.blocked.stop()
    turns.end()
