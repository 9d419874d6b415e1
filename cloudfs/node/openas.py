"""Opening files as another user of this machine, who has just that user's rights.

    python -m cloudfs.node.openas UID

in a process of its own: it becomes that user, reads paths from its standard input, each ended
by a NUL, and sends for each an open descriptor (reading only), or the number of the error.  So
what is opened is what the user may open, whatever becomes of the path meanwhile.
"""

from __future__ import annotations

import os
import pwd
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence

from cloudfs.errors import CloudError, from_errno

NOBODY = 65534
LONGEST = 20.0  # seconds
MOST = 16


def uid_of(user: str) -> int:
    """The number that a user has on this machine; one without rights for a stranger."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        pass
    number = user.removeprefix("#")
    return int(number) if user[:1] == "#" and number.isdigit() else NOBODY


def open_as(user: str, paths: Sequence[str]) -> list[int]:
    """Descriptors of regular files, to be closed by the caller.  Raises CloudError, with
    none open, for the first that this user cannot read here.  Blocks."""
    uid = uid_of(user)
    if os.geteuid() not in (0, uid):
        raise CloudError("refused", f"this node cannot act as {user}", "use the machine's node")
    if any("\0" in path for path in paths):
        raise CloudError("bad", "a path holds a NUL")
    ours, theirs = socket.socketpair()
    found: list[int] = []
    with ours:
        ours.settimeout(LONGEST)
        with theirs:
            child = subprocess.Popen(
                [sys.executable, "-m", "cloudfs.node.openas", str(uid)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        try:
            ours.sendall("".join(f"{path}\0" for path in paths).encode("utf-8", "surrogateescape"))
            ours.shutdown(socket.SHUT_WR)
            for path in paths:
                said, fds, _, _ = socket.recv_fds(ours, 16, 1, socket.MSG_CMSG_CLOEXEC)
                if not fds:
                    raise _refusal(int(said or b"0"), path, user)
                found += fds
                if not stat.S_ISREG(os.fstat(fds[0]).st_mode):
                    raise CloudError("bad", f"{path} is no file")
        except BaseException as error:
            for fd in found:
                os.close(fd)
            if isinstance(error, TimeoutError):
                raise CloudError("timeout", f"files were not opened in {LONGEST:g} s") from None
            raise
        finally:
            child.kill()
            child.wait()
    return found


def _refusal(number: int, path: str, user: str) -> CloudError:
    if not number:
        return CloudError("io", f"{path} cannot be opened as {user}")
    error = from_errno(number, f"{path}: {os.strerror(number).lower()}, for {user}")
    error.fix = f"it has to be a file of this node that {user} may read"
    return error


def main() -> None:
    uid = int(sys.argv[1])
    if os.geteuid() == 0:
        try:
            entry = pwd.getpwuid(uid)
            gid, groups = entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)
        except KeyError:
            gid, groups = NOBODY, []
        if uid != 0:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
    with socket.socket(fileno=os.dup(0)) as line:
        text = b""
        while more := line.recv(65536):
            text += more
        for path in text.split(b"\0")[:MOST]:
            if not path:
                continue
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                line.sendall(b"%15d " % (error.errno or 0))
                continue
            socket.send_fds(line, [b"%15d " % 0], [fd])
            os.close(fd)


if __name__ == "__main__":
    main()
