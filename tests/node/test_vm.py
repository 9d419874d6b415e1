"""Virtual machines by the real QEMU: most tests share one, which each finds again as a daemon
does that comes back."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.node import keeper, vms
from cloudfs.node.api import Exit, Image, Launch, Limits
from cloudfs.node.virtual import VmKept
from cloudfs.node.vm import MIB, OVERHEAD
from cloudfs.node.vms import Vms, runs_by_kvm
from cloudfs.wait import settle
from tests import vmimage
from tests.node.conftest import Bench, need

BOOT = 180.0  # seconds for a machine to boot on a busy computer
COUNT = b"i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done &\n"
LIMITS = Limits(cpu=1, mem=128 * MIB)
DISK = 4 * MIB
ROOT = os.geteuid() == 0


def launch(bench: Bench, id: str, *words: str, **more: object) -> Launch:
    more.setdefault("limits", LIMITS)
    given = list(words) or vmimage.words()
    user = str(more.pop("user", "root" if ROOT else f"#{os.geteuid()}"))
    return Launch(id, bench.dir(id), given, {}, "", "vm", user=user, **more)  # type: ignore[arg-type]


def whole(bench: Bench, id: str, **more: object) -> Launch:
    """The machine that tests share, or one that goes on from its image."""
    words = vmimage.words(f"disk={bench.state}/disk.raw")
    return launch(bench, id, *words, cloud=str(bench.state / "shared"), **more)


async def says(bench: Bench, id: str, text: str, after: int = 0) -> str:
    """What its console has said from `after` on, once that is in it."""
    with trio.fail_after(BOOT):
        while text not in (said := bench.out(id)[after:].decode()):
            await trio.sleep(0.02)
    return said


async def ask(bench: Bench, id: str, line: str) -> str:
    """What a line typed at its console prints."""
    kept = found(bench, id)
    start = len(bench.out(id))
    mark = f"end{start}"
    kept.write_stdin(f"{line}; echo {mark}\n".encode())
    return (await says(bench, id, f"{mark}\n", start)).partition(mark)[0]


def found(bench: Bench, id: str) -> VmKept:
    """A machine, as a daemon finds it that comes back."""
    kept = bench.host.adopt(id, bench.dir(id))
    assert isinstance(kept, VmKept)
    return kept


async def end(bench: Bench, id: str) -> Exit:
    kept = found(bench, id)
    kept.kill("over")
    with trio.fail_after(BOOT):
        ended = await kept.ended()
    bench.host.discard(id, bench.dir(id))
    return ended


@pytest.fixture(scope="module")
def machines(built: Path) -> Iterator[Bench]:
    """A host with a machine that has all: `plain`, with a disk and a share."""
    need(Vms(built).word)
    state = Path(tempfile.mkdtemp(prefix="node-"))
    state.chmod(0o711)
    shutil.copytree(built / "bin", state / "bin")
    made = Bench(state, f"testvm{os.getpid()}")
    share, disk = state / "shared", state / "disk.raw"
    share.mkdir(mode=0o755)
    (share / "hello").write_text("hello from outside\n")
    disk.write_bytes(b"the base".ljust(DISK, b"\0"))

    async def start() -> None:
        await made.host.start(whole(made, "plain"))
        await says(made, "plain", "ready\n")

    try:
        trio.run(start)
        yield made
    finally:
        trio.run(_end_all, made)
        left = made.clear()
    assert not left, left


@pytest.fixture
def images(machines: Bench) -> Iterator[Path]:
    """An empty directory for an image."""
    folder = machines.state / "image"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


async def _end_all(made: Bench) -> None:
    for id in ("plain", "twin", "again"):
        if keeper.lives(made.dir(id)):
            await end(made, id)


async def test_what_is_typed_is_done(machines: Bench):
    assert await ask(machines, "plain", "echo $((6 * 7))") == "42\n"


async def test_it_has_what_its_limits_say_and_no_network(machines: Bench):
    total = await ask(machines, "plain", "grep MemTotal /proc/meminfo")
    assert int(total.split()[1]) * 1024 < 128 * MIB
    assert await ask(machines, "plain", "nproc") == "1\n"
    assert await ask(machines, "plain", "ls /sys/class/net") == "lo\n"
    kept = found(machines, "plain")
    if "mem" in machines.host.groups.bases:
        version, path = kept.group.place("mem")
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        assert int(Path(path, name).read_text()) == 128 * MIB + OVERHEAD
    assert kept.usage().mem > 0
    kept.set_limits(Limits(cpu=0.5, mem=128 * MIB, time=3600))
    kept.set_limits(LIMITS)
    for limits in (Limits(mem=256 * MIB), Limits(mem=128 * MIB, pids=9)):
        with pytest.raises(CloudError, match="virtual machine") as error:
            kept.set_limits(limits)
        assert error.value.kind == "unsupported"


async def test_qemu_is_confined(machines: Bench):
    pid = found(machines, "plain").pid
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"(?m)^Seccomp:\s+2$", status)
    if ROOT:
        uids = re.search(r"(?m)^Uid:\s+(\d+)\s+(\d+)\s+(\d+)", status)
        assert uids is not None
        assert {int(uid) for uid in uids.groups()} == {machines.host.sandbox_uid("plain")}
        assert re.search(r"(?m)^CapEff:\s+0+$", status)
        assert re.search(r"(?m)^Groups:\s*$", status)
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
        held = machines.dir("plain") / vms.HOME
        assert stat.S_IMODE((held / "kernel").stat().st_mode) == 0o400
        assert stat.S_IMODE((held / vms.SOCKET).stat().st_mode) == 0o600
        open_files = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        ours = {to for to in open_files if to.startswith(str(machines.state))}
        given = {machines.state / "disk.raw", machines.state / "shared", held / "disk"}
        assert ours <= {*map(str, given), f"{held}/kernel", f"{held}/initrd"}


async def test_a_paused_one_stands_still(machines: Bench):
    kept = found(machines, "plain")
    kept.write_stdin(COUNT)
    await says(machines, "plain", "\n5\n")
    await settle(kept.freeze())
    before = machines.out("plain")
    await trio.sleep(0.5)
    assert machines.out("plain") == before
    await settle(found(machines, "plain").thaw())
    await says(machines, "plain", "\n", len(before))
    await ask(machines, "plain", "kill $!")


async def test_an_image_goes_on_where_it_was_made_and_beside_it(machines: Bench, images: Path):
    kept = found(machines, "plain")
    start = len(machines.out("plain"))
    kept.write_stdin(COUNT)
    await says(machines, "plain", "\n3\n", start)
    await kept.dump(images)
    assert kept.still["down"] > 0 <= kept.still["qemu"]
    before = machines.out("plain")[start:].split()
    await trio.sleep(0.3)
    assert machines.out("plain")[start:].split() == before  # it stands still
    assert kept.write_stdin(b"echo from the pipe\n") == 19  # which is not in the image
    await settle(kept.thaw())
    twin = await machines.host.restore(whole(machines, "twin"), Image(images, 5.0))
    kill = f"{len(before) + 10}"
    await says(machines, "plain", f"\n{kill}\n", start)
    said = (await says(machines, "twin", f"\n{kill}\n")).split()
    assert said[:5] == [str(len(before) + n) for n in range(5)]  # none lost, none twice
    there = machines.out("plain")[start:].decode().replace("from the pipe\n", "").split()
    assert [word for word in there if word.isdigit()][: int(kill)] == list(
        map(str, range(int(kill)))
    )
    await ask(machines, "plain", "kill $!")
    with pytest.raises(CloudError, match="no signal HUP"):
        twin.signal(1)
    await settle(twin.signal(15))  # the power button
    with trio.fail_after(BOOT):
        ended = await twin.ended()
    assert (ended.code, ended.why) == (0, "")
    machines.host.discard("twin", machines.dir("twin"))


async def test_what_was_typed_goes_along_read_or_not(machines: Bench, images: Path):
    kept = found(machines, "plain")
    start = len(machines.out("plain"))
    lines = [f"line {n}" for n in range(1500)]
    typed = "".join(f"echo {line}\n" for line in lines).encode()
    assert kept.write_stdin(typed) == len(typed)
    await kept.dump(images)
    before = machines.out("plain")[start:].decode()
    await machines.host.restore(whole(machines, "twin"), Image(images, 5.0))
    with trio.fail_after(BOOT):
        while not (said := before + machines.out("twin").decode()).endswith("line 1499\n"):
            await trio.sleep(0.02)
    assert said.splitlines() == lines
    await settle(kept.thaw())
    assert (await says(machines, "plain", "line 1499\n", start)).splitlines() == lines
    await end(machines, "twin")


async def test_memory_is_sent_while_it_runs(machines: Bench, images: Path, tmp_path: Path):
    """One with a disk is not sent by the node, but it can be: its disk is not touched here."""
    kept = found(machines, "plain")
    assert not kept.streams  # it has a disk
    start = len(machines.out("plain"))
    kept.write_stdin(COUNT)
    await says(machines, "plain", "\n3\n", start)
    ours, theirs = socket.socketpair()
    ready = trio.Event()

    async def carry() -> None:
        await ready.wait()
        shutil.copy(machines.dir("plain") / vms.HOME / "disk", images / "disk")
        there = await machines.host.receive(whole(machines, "twin"), Image(images, 5.0))
        source = trio.socket.from_stdlib_socket(ours)
        while data := await source.recv(1 << 20):
            await there.feed(data)
        await there.feed(b"")

    with trio.fail_after(BOOT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry)
            await kept.send(images, theirs.detach(), ready.set)
    ours.close()
    await kept.dump(tmp_path)
    assert not (tmp_path / vms.RAM).exists()
    so_far = machines.out("plain")[start:]
    (machines.dir("twin") / "stdout").unlink()
    (machines.dir("twin") / "stdout").write_bytes(so_far)
    await trio.sleep(0.2)
    assert machines.out("twin") == machines.out("plain")[start:] == so_far  # both stand still
    twin = found(machines, "twin")  # as by a daemon that comes back
    await machines.host.go_on(twin, Image(tmp_path, 5.0))
    await machines.host.go_on(twin, Image(tmp_path, 5.0))  # which does nothing twice
    last = len(so_far.split()) + 5
    said = (await says(machines, "twin", f"\n{last}\n")).split()
    assert said[:last] == [str(n) for n in range(last)]
    await end(machines, "twin")
    await settle(kept.thaw())
    await says(machines, "plain", f"\n{last}\n", start)
    await ask(machines, "plain", "kill $!")


async def test_memory_that_is_none(machines: Bench, images: Path):
    await found(machines, "plain").dump(images)
    await settle(found(machines, "plain").thaw())
    there = await machines.host.receive(whole(machines, "twin"), Image(images, 5.0))
    with pytest.raises(CloudError, match="QEMU"):
        for _ in range(100):
            await there.feed(b"no such stream" * 1000)
        await there.feed(b"")
    with trio.fail_after(BOOT):
        assert (await there.ended()).code != 0
    machines.host.discard("twin", machines.dir("twin"))


async def test_its_name_space_by_9p(machines: Bench, images: Path):
    assert "hello from outside" in await ask(machines, "plain", "share; cat /cloud/hello")
    with pytest.raises(CloudError, match="name space mounted") as error:
        await found(machines, "plain").dump(images)
    assert error.value.fix
    assert await ask(machines, "plain", "umount /cloud; echo on") == "on\n"


async def test_a_disk_is_of_the_object_alone_and_in_its_images(machines: Bench, images: Path):
    disk = machines.state / "disk.raw"
    assert await ask(machines, "plain", "head -c 8 /dev/vda; echo") == "the base\n"
    await ask(machines, "plain", "printf changed1 | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null")
    assert disk.read_bytes().startswith(b"the base")
    await found(machines, "plain").dump(images)
    await settle(found(machines, "plain").thaw())
    await ask(machines, "plain", "printf changed2 | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null")
    await machines.host.restore(whole(machines, "twin"), Image(images, 1.0))
    read = "echo 3 >/proc/sys/vm/drop_caches; head -c 8 /dev/vda; echo"
    assert await ask(machines, "twin", read) == "changed1\n"
    assert await ask(machines, "plain", read) == "changed2\n"
    await end(machines, "twin")
    # What is no such disk here is seen before anything starts.
    disk.write_bytes(bytes(DISK + 512))
    with pytest.raises(CloudError, match="is not the disk here"):
        await machines.host.restore(whole(machines, "again"), Image(images, 1))
    disk.write_bytes(b"the base".ljust(DISK, b"\0"))


async def test_images_that_are_none(machines: Bench, images: Path):
    await found(machines, "plain").dump(images)
    await settle(found(machines, "plain").thaw())
    shape = (images / vms.SHAPE).read_text()

    async def refused(said: str, limits: Limits = LIMITS) -> None:
        with pytest.raises(CloudError, match=said):
            await machines.host.restore(whole(machines, "again", limits=limits), Image(images, 1))
        assert not machines.dir("again").exists()

    await refused("of a machine with 134217728 bytes", Limits(mem=256 * MIB))
    (images / vms.SHAPE).write_text("{}")
    await refused("of no virtual machine")
    other = json.loads(shape) | {"machine": "pc-q35-1.0"}
    (images / vms.SHAPE).write_text(json.dumps(other))
    await refused("QEMU's pc-q35-1.0")
    (images / vms.SHAPE).write_text(shape)
    with (images / vms.RAM).open("r+b") as file:
        file.truncate(1 << 20)
    await refused("QEMU")
    (images / vms.RAM).write_bytes(b"no such stream")
    await refused("QEMU")


async def test_kill(machines: Bench):
    """Last: it ends the one that the others share."""
    ended = await end(machines, "plain")
    assert (ended.signal, ended.why) == (9, "over")


# --- without a machine --------------------------------------------------------------------


@pytest.fixture
def files(bench: Bench) -> Path:
    need(bench.host.vms.word)
    folder = bench.state / "files"
    folder.mkdir(mode=0o755)
    (folder / "text").write_text("no kernel\n" * 100)
    (folder / "odd").write_bytes(bytes(777))
    (folder / "elf").write_bytes(b"\x7fELF".ljust(4096, b"\0"))
    os.mkfifo(folder / "pipe")
    return folder


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["kernel=nothing"], "absent", "no such file"),
        (["kernel=text"], "notexec", "is no Linux kernel"),
        (["kernel=elf", "initrd=text"], "notexec", "is no initrd"),
        (["kernel=."], "bad", "is no file"),
        (["kernel=pipe"], "bad", "is no file"),
        (["disk=odd"], "bad", "is no image of a disk"),
        (["text"], "bad", "says nothing of a virtual machine"),
        (["kernel=elf"], "notexec", "QEMU"),
    ],
)
async def test_what_cannot_start(bench: Bench, files: Path, words, kind, said):
    given = [word.replace("=", f"={files}/") for word in words]
    with pytest.raises(CloudError, match=said) as error:
        await bench.host.start(launch(bench, "a", *given))
    assert error.value.kind == kind
    assert not bench.dir("a").exists()
    assert bench.keepers() == []


async def test_files_are_opened_with_the_rights_of_the_objects_user(bench: Bench, files: Path):
    need("" if ROOT else "only root can act for others")
    (files / "elf").chmod(0o600)
    with pytest.raises(CloudError, match="permission denied, for nobody") as error:
        await bench.host.start(launch(bench, "a", f"kernel={files}/elf", user="nobody"))
    assert error.value.kind == "denied"
    with pytest.raises(CloudError, match="permission denied, for stranger@elsewhere"):
        await bench.host.start(launch(bench, "a", f"kernel={files}/elf", user="stranger@elsewhere"))


async def test_too_little_memory(bench: Bench, files: Path):
    small = Limits(mem=20 * MIB)
    with pytest.raises(CloudError, match="too little") as error:
        await bench.host.start(launch(bench, "a", limits=small))
    assert "limit mem=" in error.value.fix
    with pytest.raises(CloudError, match="limit pids"):
        await bench.host.start(launch(bench, "a", limits=Limits(pids=10)))


async def test_without_qemu(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(bench.state))
    bench.host.vms = Vms(bench.state)
    with pytest.raises(CloudError, match="needs qemu-system-x86_64") as error:
        await bench.host.start(launch(bench, "a", "kernel=/k"))
    assert "apt-get install" in error.value.fix
    assert "qemu-system-x86_64" in bench.host.images_word("vm")


def test_kvm_is_tried_out(tmp_path: Path):
    def qemu(script: str) -> str:
        program = tmp_path / "qemu"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return str(program)

    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    assert runs_by_kvm(qemu("exit 33"), "/dev/null")
    assert not runs_by_kvm(qemu("exit 1"), "/dev/null")
    assert not runs_by_kvm(qemu("exec sleep 600"), "/dev/null", 0.5)
    assert not runs_by_kvm(qemu("exit 33"), str(tmp_path / "nothing"))
