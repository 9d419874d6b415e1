"""Building the keeper, its records, and a disk that fills up."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import trio
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.node import keeper
from tests.node.conftest import Bench, need
from tests.node.test_host import until


def test_it_is_built_once(built: Path):
    binary = Path(keeper.build(built))
    before = binary.stat().st_mtime_ns
    assert keeper.build(built) == str(binary)
    assert binary.stat().st_mtime_ns == before
    assert [path.name for path in binary.parent.iterdir()] == [binary.name]


def test_an_order_that_is_none_is_refused(built: Path, tmp_path: Path):
    for text in (b"", b"nonsense", b"program=/bin/true\0", b"arg=x\0", b"=\0\0\0"):
        pid, pipe = keeper.launch(keeper.build(built), "a", tmp_path, text)
        os.waitpid(pid, 0)
        assert os.read(pipe, 100).startswith(b"failed=order ")
        os.close(pipe)
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=400))
def test_any_reason_comes_back_as_one_line(why: str):
    quoted = keeper.quote(why)
    assert "\n" not in quoted
    assert len(quoted.encode()) < 1024
    record = keeper.parse(f"pid=1 code= signal=9 why={quoted}\n")
    assert record["why"] == " ".join(why.split())[:160]
    assert (record["code"], record["signal"]) == ("", "9")


def test_half_a_record_is_none(tmp_path: Path):
    assert keeper.read_keeper(tmp_path) is keeper.read_exit(tmp_path) is None
    (tmp_path / "keeper").write_text("pid=1 keep")
    assert keeper.read_keeper(tmp_path) is None
    assert not keeper.lives(tmp_path)


async def test_a_full_disk_stops_the_program_and_loses_nothing(bench: Bench):
    need("" if os.geteuid() == 0 else "only root can mount a small disk")
    small = bench.dir("a")
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(small)], check=True)
    try:
        ballast = small / "ballast"
        ballast.write_bytes(bytes(200 << 10))
        running = await bench.sh("a", "seq 30000; exit 3")  # 168,894 bytes
        await until(lambda: b"disk=full" in (small / "keeper").read_bytes())
        await trio.sleep(0.2)
        assert running.pids()  # it waits
        ballast.unlink()
        with trio.fail_after(20):
            assert (await running.ended()).code == 3
        assert bench.out("a") == b"".join(b"%d\n" % n for n in range(1, 30001))
        bench.host.discard("a", small)
    finally:
        subprocess.run(["umount", str(small)], check=True)
