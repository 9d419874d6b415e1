"""A file's attributes in the form that the kernel wants."""

from __future__ import annotations

import stat as bits

from pyfuse3 import EntryAttributes

from cloudfs.tree.api import DMDIR, Node, Stat
from cloudfs.tree.idmap import UNKNOWN, gid_of, uid_of

BLOCK = 65536  # bytes that stdio and others then read at once: a read costs us more than a copy
_HIGHEST_SIZE = (1 << 63) - 1
_HIGHEST_TIME = 1 << 40  # seconds; also keeps nonsense of a far node out of a time_t


def attributes(ino: int, stat: Stat, valid: float, groups: bool = False) -> EntryAttributes:
    """pyfuse3's form of a Stat.  valid: seconds for which the kernel may keep it.

    groups: whether the tree knows groups that this machine does not.  The kernel cannot judge
    who is in one, so it is to let everybody pass whom the tree may: that judges each caller
    itself (permission.py).

    The name itself is never kept (see operations.py).  Every file has one link, which
    tells find(1) and others not to count on the number of subdirectories."""
    entry = EntryAttributes()
    entry.st_ino = ino
    entry.entry_timeout = 0
    entry.attr_timeout = valid
    kind = bits.S_IFDIR if stat.mode & DMDIR else bits.S_IFREG
    entry.st_mode = kind | stat.mode & 0o777
    entry.st_uid = uid_of(stat.uid)
    entry.st_gid = gid_of(stat.gid)
    if groups and entry.st_gid == UNKNOWN and stat.gid != stat.uid:
        entry.st_mode |= stat.mode >> 3 & 7
    entry.st_blksize = BLOCK
    size = stat.length
    if size:
        entry.st_size = size = min(max(size, 0), _HIGHEST_SIZE)
        entry.st_blocks = (size + 511) // 512
    time = stat.mtime
    if 0 < time < _HIGHEST_TIME:  # False for a NaN too
        entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = int(time * 1e9)
    return entry


def listed(ino: int, node: Node) -> EntryAttributes:
    """What a listing shows of a file: its attributes if they can be had at once, else
    what is known without asking.  The kernel asks again before it believes either."""
    try:
        stat = node.stat()
    except Exception:
        stat = None
    if not isinstance(stat, Stat):
        stat = Stat(node.name, node.qid, node.mode, 0, 0.0, node.uid, node.gid)
    return attributes(ino, stat, 0)
