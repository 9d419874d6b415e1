"""DESIGN 6 on a real node with real people: the same answers by every way, and secrets that stay
where they belong.  What other tests hold of its promises stands in docs/THREATS.md."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudfs import ndb
from cloudfs.cli.local import free_ports
from tests.persons import NOBODY, Person, Session, nobody, open_folder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users")
WORDS = {name: f"{name} has a long sentence" for name in ("ana", "bob", "carl")}
UIDS = {"ana": 40123, "bob": NOBODY, "carl": 40124, "none": 40125}


@pytest.fixture(scope="module")
def people() -> Iterator[dict[str, Session]]:
    """root's node, which others can reach in TLS; ana and bob, who share a group of the cloud;
    carl, who is in none; and one who has an account on the machine and none in the cloud."""
    root = Session(Person("root", 0), open_folder() / "home")
    (port,) = free_ports(1)
    root.tls = f"tls:127.0.0.1:{port}"  # type: ignore[attr-defined]
    try:
        root.cloudfs("up", "--node", "n1", "--listen", f"127.0.0.1:{port}")
        root.cloudfs("init")
        root.sh(f"until ss -ltn | grep -q :{port}; do sleep 0.1; done", seconds=20)
        with nobody(open_folder()) as person:
            found = {"root": root}
            for name, uid in UIDS.items():
                become = [word.replace(str(NOBODY), str(uid)) for word in person.become]
                one = found[name] = Session(Person(name, uid, become), open_folder() / "home")
                one.env |= {key: root.env[key] for key in ("CLOUDFS_STATE", "CLOUDFS_MOUNT")}
            for name, word in WORDS.items():
                found[name].code = root.cloudfs(
                    "user", "add", name, stdin=f"{word}\n"
                ).stdout.strip()  # type: ignore[attr-defined]
            for name, word in WORDS.items():
                found[name].cloudfs("login", name, stdin=f"{word}\n")
            share = ("group", "add", "web", "ana", "bob", "--as", "ana")
            root.cloudfs(*share, stdin=f"{WORDS['ana']}\n")
            yield found
            for name in UIDS:
                found[name].cloudfs("logout", status=None)
    finally:
        root.cloudfs("down", "--objects", status=None)


# --- who may what, by every way ------------------------------------------------------------------

# Prints which of the files it may open: "r", "w", both or neither.
OPENS = """
import json, os, sys
import trio
from cloudfs import config
from cloudfs.errors import CloudError
from cloudfs.tree.api import OREAD, OWRITE
from cloudfs.wire.connect import connect
from cloudfs.wire.prove import by_factotum

way, at, *paths = sys.argv[1:]
found = dict.fromkeys(paths, "")

def near():
    for path in paths:
        for letter, flags in (("r", os.O_RDONLY), ("w", os.O_WRONLY)):
            try:
                os.close(os.open(f"{at}/{path}", flags | os.O_NONBLOCK))
                found[path] += letter
            except PermissionError:
                pass

async def look(client):
    for path in paths:
        for letter, mode in (("r", OREAD), ("w", OWRITE)):
            try:
                async with await client.walk(path.split("/")) as file:
                    await file.open(mode)
                    found[path] += letter
            except CloudError as error:
                if error.kind not in ("denied", "refused"):
                    raise

async def far():
    if way == "unix":
        async with connect(at) as client:
            await look(client)
    else:
        async with by_factotum(str(config.factotum_socket())) as prove:
            async with connect(at, prove=prove) as client:
                await look(client)

near() if way == "mount" else trio.run(far)
print(json.dumps(found))
"""


def files(root: Session, id: str) -> list[str]:
    """All files of an object, of the node, and at the top."""
    lines = root.sh(
        f"cd $CLOUDFS_MOUNT && find . -maxdepth 1 -type f && find proc/{id} -maxdepth 1 -type f"
        " && find nodes/n1 secstore -maxdepth 1 -type f && echo proc/clone"
    )
    return sorted({line.removeprefix("./") for line in lines.split()})


def test_the_same_permissions_over_9p_fuse_and_socket_for_every_caller(
    people: dict[str, Session],
) -> None:
    root, ana = people["root"], people["ana"]
    id = ana.cloudfs("run", "sh", "-c", "echo hers; exec sleep 600").stdout.strip()
    try:
        ana.sh(f"echo group web >$CLOUDFS_MOUNT/proc/{id}/ctl")
        paths = files(root, id)
        assert len(paths) > 40
        ways = {
            "mount": str(root.mount),
            "unix": f"unix:{root.state}/sock",
            "tls": root.tls,  # type: ignore[attr-defined]
        }

        def may(name: str, way: str) -> dict[str, str]:
            done = people[name].run("python3", "-c", OPENS, way, ways[way], *paths)
            found: dict[str, str] = json.loads(done.stdout)
            return found

        seen = {name: may(name, "mount") for name in (*UIDS, "root")}
        for name, by_mount in seen.items():
            assert may(name, "unix") == by_mount, name
            if name in WORDS:
                assert may(name, "tls") == by_mount, name
        # Who proves nothing sees nothing of the cloud from afar.
        far = people["none"].run("python3", "-c", OPENS, "tls", ways["tls"], *paths, status=1)
        assert "there is no factotum" in far.stderr

        table = {
            "stdout": ("r", "r", "", ""),
            "env": ("r", "r", "", ""),
            "ctl": ("rw", "rw", "", ""),
            "stdin": ("w", "w", "", ""),
            "status": ("r", "r", "r", "r"),
            "events": ("r", "r", "r", "r"),
        }
        for file, wanted in table.items():
            assert tuple(seen[name][f"proc/{id}/{file}"] for name in UIDS) == wanted, file
        assert seen["root"][f"proc/{id}/stdout"] == "rw", "no bit applies to the node's owner"
        assert seen["root"][f"proc/{id}/events"] == "r", "and what nobody writes root does not"
        assert seen["ana"]["nodes/n1/price"] == "r"
        assert seen["root"]["nodes/n1/price"] == "rw"
    finally:
        ana.cloudfs("kill", id, status=None)


# --- secrets -------------------------------------------------------------------------------------

KEYS = """
import sys
from cloudfs.cli import Options, secstore
from cloudfs.cli.files import open_files
print(secstore.get_keys(open_files(Options()), sys.argv[1], sys.stdin.readline().rstrip())[0])
"""


def server_of(path: Path | str) -> int:
    """The process that serves at a socket."""
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(path))
        size = struct.calcsize("3i")
        pid: int = struct.unpack("3i", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[
            0
        ]
        return pid


def memory(pid: int) -> Iterator[bytes]:
    """What a core of a process would hold."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            where, how, *_, name = [*line.split(None, 5), ""]
            begin, end = (int(word, 16) for word in where.split("-"))
            if "w" not in how or name.startswith("[v"):
                continue
            mem.seek(begin)
            try:
                yield mem.read(end - begin)
            except OSError:
                continue  # unmapped meanwhile


def test_no_secret_in_logs_files_or_cores(people: dict[str, Session]) -> None:
    """A password, a recovery code and a user's key, after the user was made and logged in: not on
    disk, not in the words or variables of a process, and nowhere in the daemon's memory."""
    root, carl = people["root"], people["carl"]
    key = root.run("python3", "-c", KEYS, "carl", stdin=f"{WORDS['carl']}\n").stdout
    seed = bytes.fromhex(ndb.parse(key.strip().split(" ", 1)[1])["!seed"])
    code = carl.code  # type: ignore[attr-defined]
    carl.cloudfs("run", "--wait", "true")
    secrets = {
        "password": WORDS["carl"].encode(),
        "code": code.encode(),
        "code, bare": code.replace("-", "").encode(),
        "seed": seed,
        "seed in hex": seed.hex().encode(),
        "seed in base64": base64.b64encode(seed)[:40],
    }

    def clean(where: str, *contents: bytes) -> None:
        for content in contents:
            assert not [name for name, secret in secrets.items() if secret in content], where

    daemon = server_of(root.state / "sock")
    factotum = server_of(carl.env["CLOUDFS_FACTOTUM"])
    for pid in (daemon, factotum):
        for file in ("cmdline", "environ"):
            clean(f"{file} of {pid}", Path(f"/proc/{pid}/{file}").read_bytes())
    read = 0
    for place in (root.home, carl.home):
        for folder, inner, names in os.walk(place):
            inner[:] = [one for one in inner if not os.path.ismount(f"{folder}/{one}")]
            for path in (Path(folder, name) for name in names):
                if path.is_file() and not path.is_symlink():
                    clean(str(path), path.read_bytes())
                    read += 1
    assert read > 10
    clean("the log in the tree", root.sh("cat $CLOUDFS_MOUNT/events").encode())
    held = list(memory(daemon))
    assert any(b"carl" in part for part in held), "it was read"
    clean("the daemon's memory", *held)
    known = list(memory(factotum))  # which root may read, and where the key has to be
    assert any(seed in part or secrets["seed in hex"] in part for part in known)
    for pid in (daemon, factotum):
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert limits.split("Max core file size", 1)[1].split()[0] == "0"


# --- money ---------------------------------------------------------------------------------------


def test_bills_can_be_checked(people: dict[str, Session]) -> None:
    root, ana = people["root"], people["ana"]
    root.sh("echo 3.6 >$CLOUDFS_MOUNT/nodes/n1/price")
    burn = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; exec sleep 600"
    id = ana.cloudfs("run", "sh", "-c", burn).stdout.strip()
    try:
        until = (
            f"until grep -q 'cpu=[0-9.]*[1-9]' $CLOUDFS_MOUNT/proc/{id}/bill; do sleep 0.1; done"
        )
        ana.sh(until, seconds=20)
        first = ana.cloudfs("bill", id).stdout
        said = ndb.parse(first)
        assert (said["id"], said["user"], said["node"], said["price"]) == (id, "ana", "n1", "3.6")
        assert float(said["total"]) == pytest.approx(float(said["cpu"]) * 0.001, abs=1e-5)
        assert people["carl"].cloudfs("bill", id, status=1).stdout == ""  # it is hers

        kept = ana.home / "bills"
        kept.write_text(first)
        ana.cloudfs("bill", "--check", str(kept), id)
        changed = first.replace(f"cpu={said['cpu']}", "cpu=0.000001")
        kept.write_text(first + changed)
        done = ana.cloudfs("bill", "--check", str(kept), status=1)
        assert "line 2" in done.stderr
        # A node that puts its price up says so at once, and cannot say that it was so before.
        kept.write_text(first)
        root.sh("echo 7.2 >$CLOUDFS_MOUNT/nodes/n1/price")
        done = ana.cloudfs("bill", "--check", str(kept), id, status=1)
        assert "the price was 3.6 before and is 7.2" in done.stderr
    finally:
        ana.cloudfs("kill", id, status=None)
        root.sh("echo 0 >$CLOUDFS_MOUNT/nodes/n1/price")
