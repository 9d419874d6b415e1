"""The one error type, and the one table from its kind to what each protocol says.

Raise `CloudError(kind, why, fix=…)` anywhere below an adapter.  The adapter that
serves the caller fills in `path` and answers with the kind's text or errno; the
full sentence is kept for the caller in `/cloud/err`, which `cloudfs why` prints.
"""

from __future__ import annotations

import errno

# kind: (errno, 9P2000 text).  The texts are those that the Linux kernel's v9fs maps
# back to an errno (net/9p/error.c); any other text becomes errno 526 there.
KINDS: dict[str, tuple[int, str]] = {
    "absent": (errno.ENOENT, "file not found"),  # the one text that py9p knows as well
    "denied": (errno.EACCES, "Permission denied"),
    "refused": (errno.EPERM, "Operation not permitted"),
    "bad": (errno.EINVAL, "Invalid argument"),
    "exists": (errno.EEXIST, "File exists"),
    "notdir": (errno.ENOTDIR, "Not a directory"),
    "isdir": (errno.EISDIR, "Is a directory"),
    "notempty": (errno.ENOTEMPTY, "Directory not empty"),
    "readonly": (errno.EROFS, "Read-only file system"),
    "busy": (errno.EBUSY, "Device or resource busy"),
    "full": (errno.ENOSPC, "No space left on device"),
    "toobig": (errno.E2BIG, "Argument list too long"),
    "toolong": (errno.ENAMETOOLONG, "File name too long"),
    "toomany": (errno.EMFILE, "Too many open files"),
    "nofid": (errno.EBADF, "Bad file descriptor"),
    "proto": (errno.EPROTO, "Protocol error"),
    "unsupported": (errno.EOPNOTSUPP, "Operation not supported"),
    "nosys": (errno.ENOSYS, "Function not implemented"),
    "nodata": (errno.ENODATA, "No data available"),
    "interrupted": (errno.EINTR, "Interrupted system call"),
    "timeout": (errno.ETIMEDOUT, "Connection timed out"),
    "unreachable": (errno.EHOSTUNREACH, "No route to host"),
    "pipe": (errno.EPIPE, "Broken pipe"),
    "stale": (errno.ESTALE, "Stale file handle"),
    "io": (errno.EIO, "Input/output error"),
    "xdev": (errno.EXDEV, "Invalid cross-device link"),
    "notexec": (errno.ENOEXEC, "Exec format error"),
    "again": (errno.EAGAIN, "Resource temporarily unavailable"),
}

_BY_ERRNO = {number: kind for kind, (number, _) in KINDS.items()}
_BY_TEXT = {text: kind for kind, (_, text) in KINDS.items()} | {
    # What other servers say, Linux's and Plan 9's.
    "No such file or directory": "absent",
    "file does not exist": "absent",
    "directory entry not found": "absent",
    "permission denied": "denied",
    "not a directory": "notdir",
    "file already exists": "exists",
    "unknown fid": "nofid",
}


class CloudError(Exception):
    """Something a caller asked for that cannot be done.

    kind: a key of `KINDS`.  why: what failed and why, one sentence without a full
    stop.  fix: what to type or do next, or "".  path: the file asked for, filled in
    by the tree.
    """

    def __init__(self, kind: str, why: str = "", fix: str = "", path: str = "") -> None:
        super().__init__(kind, why, fix, path)
        self.kind = kind
        self.why = why
        self.fix = fix
        self.path = path

    @property
    def errno(self) -> int:
        """The Linux errno of this kind, a positive int."""
        return KINDS[self.kind][0]

    @property
    def text(self) -> str:
        """The error string of this kind for 9P2000, one that v9fs knows."""
        return KINDS[self.kind][1]

    def __str__(self) -> str:
        parts = [self.path] if self.path else []
        parts.append(self.why or self.text.lower())
        line = ": ".join(parts)
        return f"{line}; {self.fix}" if self.fix else line


def from_errno(number: int, why: str = "", path: str = "") -> CloudError:
    """The CloudError for an errno that the OS or a peer gave; unknown ones are `io`."""
    return CloudError(_BY_ERRNO.get(number, "io"), why, path=path)


def from_text(text: str, path: str = "") -> CloudError:
    """The CloudError for the error string of a 9P2000 peer; unknown ones are `io`."""
    kind = _BY_TEXT.get(text)
    return CloudError(kind, "", path=path) if kind else CloudError("io", text, path=path)
