"""The everyday tools on a real mount: none may hang, crash or make something by looking."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuse.conftest import Server, needs, needs_root, python

# What can be read without blocking, so that a tool that reads everything ends.
QUIET = ("hello", "big", "empty", "ctl", "dir", "many", "slow", "deep", "remote/dir")


def quiet(server: Server) -> list[str]:
    return [server.path(name) for name in QUIET]


def test_cat_and_cp(server: Server, tmp_path: Path) -> None:
    assert server.run("cat", server.path("hello")).stdout == "hello, world\n"
    assert server.run("cp", server.path("big"), str(tmp_path / "big")).returncode == 0
    assert (tmp_path / "big").read_bytes() == bytes(range(256)) * 4096


def test_ls(server: Server) -> None:
    done = server.run("ls", "-la", server.path())
    assert done.returncode == 0, done.stderr
    lines = {line.split()[-1]: line for line in done.stdout.splitlines()[1:]}
    assert lines["hello"].startswith("-r--r--r-- 1 root")
    assert lines["dir"].startswith("dr-xr-xr-x 1 root")
    assert "far" in lines


def test_ls_of_many(server: Server) -> None:
    for _ in range(2):
        done = server.run("ls", "-U", server.path("huge"))
        assert done.stdout.split() == [f"f{i:05}" for i in range(10_000)]
    done = server.run("ls", "-l", server.path("many"))
    assert len(done.stdout.splitlines()) == 1001


def test_find(server: Server) -> None:
    done = server.run("find", server.path("deep"), server.path("many"), "-type", "f")
    names = done.stdout.splitlines()
    assert len(names) == 1001
    assert server.path("deep", "a", "b", "c") in names
    done = server.run("find", server.path(), "-name", "c", "-not", "-path", "*boom*")
    assert server.path("deep", "a", "b", "c") in done.stdout


def test_grep(server: Server) -> None:
    done = server.run("grep", "-rl", "^A$", *quiet(server))
    assert sorted(done.stdout.split()) == [server.path("dir", "a"), server.path("remote/dir/a")]


def test_du(server: Server) -> None:
    done = server.run("du", "-s", "--block-size=1", server.path("big"))
    assert int(done.stdout.split()[0]) == 1 << 20
    done = server.run("du", "-s", server.path("many"), server.path("deep"))
    assert done.returncode == 0


def test_cp_r(server: Server, tmp_path: Path) -> None:
    done = server.run("cp", "-r", "--preserve=mode,timestamps", *quiet(server), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "deep/a/b/c").read_text() == "C\n"
    assert len(os.listdir(tmp_path / "many")) == 1000
    server.run("chmod", "-R", "u+rwX", str(tmp_path))


def test_tar(server: Server, tmp_path: Path) -> None:
    done = server.run("tar", "-C", server.path(), "-cf", str(tmp_path / "t"), *QUIET)
    assert done.returncode == 0, done.stderr
    done = server.run("tar", "-tvf", str(tmp_path / "t"))
    assert len([line for line in done.stdout.splitlines() if "many/f" in line]) == 1000
    assert "deep/a/b/c" in done.stdout


def test_tail_f_follows(server: Server) -> None:
    server.write("one\n", "work", "log")
    try:
        program = server.start("tail", "-s", "0.1", "-f", server.path("work", "log"))
        assert program.stdout is not None
        assert program.stdout.readline() == "one\n"
        server.run("sh", "-c", f"echo two >> {server.path('work', 'log')}")
        assert program.stdout.readline() == "two\n"
        program.terminate()
        program.communicate(timeout=10)
    finally:
        server.run("rm", "-f", server.path("work", "log"))


def test_less_and_head(server: Server) -> None:
    done = server.run("head", "-c", "5", server.path("big"))
    assert done.stdout == "\0\1\2\3\4"
    assert server.run("head", "-n", "1", server.path("hello")).stdout == "hello, world\n"


@needs("less", "script")
def test_less_on_a_terminal(server: Server) -> None:
    command = f"less -e {server.path('hello')}"
    done = server.run("script", "-qec", command, "/dev/null", input="q")
    assert "hello, world" in done.stdout


@needs("watch", "script")
def test_watch_on_a_terminal(server: Server) -> None:
    # In a process group of its own, which timeout makes without --foreground where the
    # shell forks for it, watch would be stopped for touching the terminal.
    command = f"timeout --foreground -s INT 1 watch -t -n 0.2 cat {server.path('hello')}"
    done = server.run("script", "-qec", command, "/dev/null")
    assert "hello, world" in done.stdout


@needs("vi")
def test_an_editor_reads(server: Server) -> None:
    done = server.run(
        "vi", "-R", "-n", "-e", "-s", "-c", "%print", "-c", "qa!", server.path("hello")
    )
    assert "hello, world" in done.stdout


@needs("ed")
def test_ed_reads_and_writes(server: Server) -> None:
    server.write("x\n", "work", "text")
    done = server.run("ed", "-s", server.path("work", "text"), input="a\nnew\n.\nw\nq\n")
    assert done.returncode == 0, done.stderr
    assert server.read("work", "text") == "x\nnew\n"
    assert server.run("rm", server.path("work", "text")).returncode == 0


def test_the_shell_writes(server: Server) -> None:
    """open(O_TRUNC), truncate(2) and plain opens of a ctl file; a wrong word is an error."""
    ctl = server.path("ctl")
    assert server.run("sh", "-c", f"echo ok > {ctl}").returncode == 0
    assert server.run("sh", "-c", f"echo ok >> {ctl}").returncode == 0
    assert server.run("truncate", "-s", "0", ctl).returncode == 0
    assert server.run("touch", ctl).returncode == 0
    assert server.run("dd", f"of={ctl}", input="ok").returncode == 0
    done = server.run("sh", "-c", f"/bin/echo wrong > {ctl}")
    assert done.returncode != 0
    assert "Invalid argument" in done.stderr


def test_appending_goes_to_the_end(server: Server) -> None:
    log = server.path("work", "appended")
    for word in ("one", "two", "three"):
        assert server.run("sh", "-c", f"echo {word} >> {log}").returncode == 0
    # The size that the kernel knows is old when two write in turn to one open file each.
    done = server.run(
        *python(
            f"a = open({log!r}, 'ab', 0); b = open({log!r}, 'ab', 0)",
            "for _ in range(3): a.write(b'a'); b.write(b'b')",
        )
    )
    assert done.returncode == 0, done.stderr
    assert server.read("work", "appended") == "one\ntwo\nthree\nababab"
    assert server.run("rm", log).returncode == 0


def test_rm_r_of_what_cannot_be_removed(server: Server) -> None:
    done = server.run("rm", "-rf", server.path("deep"), server.path("many"))
    assert done.returncode == 1
    assert server.read("deep", "a", "b", "c") == "C\n"
    done = server.run("rm", "-rf", server.path("remote", "dir"))
    assert done.returncode == 1


def test_mkdir_and_rmdir(server: Server) -> None:
    assert server.run("mkdir", server.path("open", "d")).returncode == 0
    assert server.run("ls", server.path("open")).stdout.split() == ["d"]
    done = server.run("rmdir", server.path("open", "d"))
    assert "Operation not permitted" in done.stderr


def test_mv_within_a_directory_only(server: Server) -> None:
    server.write("text", "work", "old")
    assert server.run("mv", server.path("work", "old"), server.path("work", "new")).returncode == 0
    assert server.read("work", "new") == "text"
    assert not server.call(os.path.exists, server.path("work", "old"))
    done = server.run("mv", server.path("work", "new"), server.path("open", "new"))
    assert "Operation not permitted" in done.stderr
    assert server.call(os.listdir, server.path("work")) == ["new"]
    assert server.run("rm", server.path("work", "new")).returncode == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("ln", "hello", "open/link"), "Operation not permitted"),
        (("ln", "-s", "hello", "open/link"), "Operation not permitted"),
        (("mkfifo", "open/fifo"), "Operation not permitted"),
        (("mknod", "open/null", "c", "1", "3"), "Operation not permitted"),
        (("chown", "65534", "hello"), "Operation not permitted"),
        (("cat", "open"), "Is a directory"),
        (("cat", "nowhere"), "No such file or directory"),
        (("cat", "hello/below"), "Not a directory"),
        (("rmdir", "hello"), "Not a directory"),
        (("rmdir", "remote/dir"), "Operation not permitted"),
        (("mkdir", "dir"), "File exists"),
        (("stat", ".MaxTime=soon"), "Invalid argument"),
        (("stat", "x" * 256), "File name too long"),
    ],
    ids=lambda value: "-".join(value)[:30] if isinstance(value, tuple) else "",
)
@needs_root
def test_what_cannot_be_done_says_so(server: Server, argv: tuple[str, ...], said: str) -> None:
    done = server.run(*argv, cwd=server.path())
    assert done.returncode != 0
    assert said in done.stderr
    assert "link" not in server.call(os.listdir, server.path("open"))


def test_extended_attributes_are_not_supported(server: Server) -> None:
    for call, *args in (
        (os.getxattr, "user.x"),
        (os.setxattr, "user.x", b"1"),
        (os.listxattr,),
        (os.removexattr, "user.x"),
    ):
        with pytest.raises(OSError, match="not supported"):
            server.call(call, server.path("hello"), *args)


def test_sync_statfs_and_access(server: Server) -> None:
    def go() -> None:
        fd = os.open(server.path("ctl"), os.O_RDWR)
        os.fsync(fd)
        os.fdatasync(fd)
        os.close(fd)
        fd = os.open(server.path("dir"), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    server.call(go)
    assert server.call(os.statvfs, server.path()).f_namemax == 255
    assert server.run("df", server.path()).returncode == 0
    assert server.call(os.access, server.path("hello"), os.R_OK)


def test_looking_makes_nothing(server: Server) -> None:
    before = server.run("ls", "-R", server.path("open"), server.path("work")).stdout
    for name in ("open/x", "work/x", "dir/x", "remote/x", "hello.swp"):
        server.call(os.path.exists, server.path(name))
    server.run("sh", "-c", "for f in [!h]*/* *; do test -e $f; done", cwd=server.path())
    assert server.run("ls", "-R", server.path("open"), server.path("work")).stdout == before


def test_cues_are_walked_and_not_listed(server: Server) -> None:
    assert server.read(".follow", ".MaxTime=5", "dir", "a") == "A\n"
    assert ".follow" not in server.call(os.listdir, server.path())


def test_names_that_are_no_text(server: Server) -> None:
    name = os.fsencode(server.path("work")) + b"/\xff\xfe"

    def go() -> list[bytes]:
        with open(name, "wb") as file:
            file.write(b"x")
        names = os.listdir(os.fsencode(server.path("work")))
        os.unlink(name)
        return names

    assert server.call(go) == [b"\xff\xfe"]


@needs("setpriv")
def test_a_far_tree(server: Server) -> None:
    """Where every answer comes later, everything works as in a near one."""
    assert server.read("remote", "hello") == "hello, world\n"
    done = server.run("ls", "-l", server.path("remote"))
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 10
    done = server.run("find", server.path("remote"), "-type", "f", "-name", "f00*")
    assert len(done.stdout.splitlines()) == 100
    server.write("new", "remote", "open", "file")
    assert server.read("remote", "open", "file") == "new"
    server.call(os.truncate, server.path("remote", "open", "file"), 1)
    assert server.read("remote", "open", "file") == "n"
    assert server.run("sh", "-c", f"echo no > {server.path('remote', 'ctl')}").returncode != 0
    with pytest.raises(FileNotFoundError):
        server.read("remote", "nothing")
    with pytest.raises(FileNotFoundError):
        server.read("slow", "nothing")
    assert server.read("slow", "x") == "X\n"
