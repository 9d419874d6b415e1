"""Where things are.  Everything can be given; nothing has to be."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from cloudfs.errors import CloudError

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def state_dir() -> Path:
    """$CLOUDFS_STATE, else the custom of the system for root and for others."""
    given = os.environ.get("CLOUDFS_STATE")
    if given:
        return Path(given).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/cloudfs")
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "cloudfs"


def mount_dir() -> Path:
    """$CLOUDFS_MOUNT, else /cloud for root and ~/cloud for others."""
    given = os.environ.get("CLOUDFS_MOUNT")
    if given:
        return Path(given).absolute()
    return Path("/cloud") if os.geteuid() == 0 else Path.home() / "cloud"


def socket_path(state: Path | None = None) -> Path:
    """The unix socket on which a node serves 9P."""
    return (state or state_dir()) / "sock"


def factotum_socket() -> Path:
    """The unix socket of this user's factotum: $CLOUDFS_FACTOTUM, else in a directory of the
    user's own that does not outlive the machine."""
    given = os.environ.get("CLOUDFS_FACTOTUM")
    if given:
        return Path(given).absolute()
    uid = os.geteuid()
    custom = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}")
    if custom.is_dir():
        return custom / "cloudfs" / "factotum"
    base = "/run" if uid == 0 else "/tmp"  # noqa: S108  it must be ours alone, which is checked
    return Path(base) / f"cloudfs.{uid}" / "factotum"


def private(path: str, flags: int) -> int:
    """An opener of files that nobody else may read."""
    return os.open(path, flags, 0o600)


def node_name(given: str = "") -> str:
    """The node's name: what is given, else the host's; a DNS label in lower case."""
    name = given or re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().split(".")[0].lower())
    return label(name if given else name.strip("-") or "node", "node")


def label(name: str, what: str) -> str:
    """The same name of a node or cluster; CloudError("bad") where it is no DNS label."""
    if not _NAME.fullmatch(name):
        raise CloudError(
            "bad", f"{name[:70]!r} is no {what} name", "use a-z, 0-9 and -, at most 63"
        )
    return name


@dataclass(slots=True)
class Bounds:
    """How much of everything one user and one node may hold."""

    objects: int = 16384  # of one user, ended ones included
    fresh: int = 1024  # ids that clone gave one user and exec has not used
    fresh_seconds: float = 60.0
    stdio: int = 1 << 28  # bytes kept of each of stdout and stderr


def bounds() -> Bounds:
    """The bounds, with $CLOUDFS_MAX_OBJECTS and $CLOUDFS_MAX_STDIO over the defaults."""
    found = Bounds()
    for variable, name in (("CLOUDFS_MAX_OBJECTS", "objects"), ("CLOUDFS_MAX_STDIO", "stdio")):
        text = os.environ.get(variable)
        if text:
            if not text.isdigit() or int(text) < 1:
                raise CloudError("bad", f"{variable}={text} is no number above 0")
            setattr(found, name, int(text))
    if found.objects > found.fresh:
        found.fresh = min(found.objects, max(found.fresh, found.objects // 16))
    return found
