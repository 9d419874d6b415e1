"""Two users on one mount: the same permissions as the tree has, and reasons for each."""

from __future__ import annotations

import os
import stat

import pytest

from cloudfs.errors import CloudError
from cloudfs.tree.api import DMDIR, ORDWR, OREAD, OWRITE, Ref
from cloudfs.tree.idmap import who_of
from cloudfs.tree.space import Attach, Space, settle
from tests.fuse.conftest import Server, needs, needs_root, python
from tests.fuse.serve import served

NOBODY = 65534
pytestmark = [needs_root, needs("setpriv")]


def as_nobody(server: Server, *argv: str) -> tuple[int, str, str]:
    done = server.run(*argv, uid=NOBODY)
    return done.returncode, done.stdout, done.stderr


def test_what_another_may_and_may_not(server: Server) -> None:
    assert as_nobody(server, "cat", server.path("hello"))[1] == "hello, world\n"
    assert as_nobody(server, "cat", server.path("mine"))[1] == "mine\n"
    for name in ("secret", "private/inside", "far"):
        code, _, err = as_nobody(server, "cat", server.path(name))
        assert code == 1
        assert "Permission denied" in err
        assert server.read(name)
    code, _, err = as_nobody(server, "ls", server.path("private"))
    assert code == 2
    assert "Permission denied" in err
    code, _, err = as_nobody(server, "touch", server.path("dir", "new"))
    assert code == 1
    assert "Permission denied" in err


def test_another_is_refused_while_root_looks(server: Server) -> None:
    """What root has looked up just now opens no way for others."""
    for _ in range(20):
        assert server.read("private", "inside") == "in\n"
        assert as_nobody(server, "cat", server.path("private", "inside"))[0] == 1


def test_a_directory_in_use_stays_whole(server: Server) -> None:
    """Another user's refused look does not take a directory away from who stands in it."""
    shell = server.start("sh", "-c", "read x; pwd -P; cat inside", cwd=server.path("private"))
    for _ in range(5):
        as_nobody(server, "cat", server.path("private", "inside"))
        as_nobody(server, "stat", server.path("private", "inside"))
    out, _ = shell.communicate("go\n", timeout=20)
    assert out == f"{server.path('private')}\nin\n"


def test_what_another_makes_is_his(server: Server) -> None:
    path = server.path("work", "his")
    assert as_nobody(server, "sh", "-c", f"umask 077; echo text > {path}")[0] == 0
    status = server.call(os.stat, path)
    assert status.st_uid == NOBODY
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert as_nobody(server, "chmod", "644", path)[0] == 0
    assert stat.S_IMODE(server.call(os.stat, path).st_mode) == 0o644
    assert as_nobody(server, "rm", path)[0] == 0
    server.write("text", "work", "roots")
    assert as_nobody(server, "chmod", "666", server.path("work", "roots"))[0] == 1
    assert server.run("rm", server.path("work", "roots")).returncode == 0


MODES = {"r": (OREAD, os.O_RDONLY), "w": (OWRITE, os.O_WRONLY), "rw": (ORDWR, os.O_RDWR)}


def in_tree(at: Attach, path: str, mode: int) -> bool:
    """Whether the tree lets a caller open a file, as a 9P client would."""
    import trio

    async def go() -> bool:
        try:
            ref = await settle(at.find(tuple(path.split("/"))))
            assert isinstance(ref, Ref)
            if ref.node.mode & DMDIR and mode != OREAD:
                return False
            handle = await settle(at.open(ref, mode))
        except CloudError:
            return False
        handle.close()
        return True

    return trio.run(go)


@pytest.mark.parametrize("uid", [0, NOBODY, 12345])
def test_the_same_answers_as_the_tree(server: Server, uid: int) -> None:
    """Every file, every mode: the kernel says what Attach says."""
    root, _ = served()
    at = Space(root).attach(who_of(uid, {0}))
    files = ["hello", "secret", "mine", "far", "ctl", "empty", "dir/a", "private/inside"]
    files += ["dir", "private", "open", "deep/a/b/c", "slow/x"]
    names = [(file, key) for file in files for key in MODES]
    expected = {(file, key): in_tree(at, file, MODES[key][0]) for file, key in names}
    jobs = [(server.path(file), file, key, MODES[key][1]) for file, key in names]
    done = server.run(
        *python(
            "import os",
            f"for path, file, key, flags in {jobs!r}:",
            "    try: os.close(os.open(path, flags)); ok = True",
            "    except OSError: ok = False",
            "    print(file, key, int(ok))",
        ),
        uid=uid,
    )
    assert done.returncode == 0, done.stderr
    words = (line.split() for line in done.stdout.splitlines())
    seen = {(file, key): ok == "1" for file, key, ok in words}
    assert seen == expected
    assert True in seen.values()
    assert False in seen.values() or uid == 0
