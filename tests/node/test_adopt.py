"""The daemon dies, at any moment; objects, their output and their exit codes do not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from cloudfs.node import keeper
from cloudfs.node.api import Exit, Limits
from cloudfs.node.running import DIED, Kept
from tests.node.conftest import Bench, alive, processes
from tests.node.test_host import until

ROOT = Path(__file__).parents[2]
COUNT = 6
LINES = 400
WRITER = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done; exit 7"

# What a daemon does, as far as this is about: it starts objects and waits for them.
DAEMON = """
import sys, trio
from pathlib import Path
from cloudfs.node.api import Launch, Limits
from cloudfs.node.host import RealHost

async def main(state, node, script, count, limit):
    host = RealHost(Path(state), node)
    async def one(id):
        limits = Limits(time=float(limit) or None)
        env = {"PATH": "/usr/bin:/bin"}
        launch = Launch(id, Path(state) / id, ["sh", "-c", script], env, "/", "process", limits)
        running = await host.start(launch)
        print(id, flush=True)
        await running.ended()
    async with trio.open_nursery() as nursery:
        for n in range(int(count)):
            nursery.start_soon(one, f"o{n}")

trio.run(main, *sys.argv[1:])
"""


def daemon(
    bench: Bench, script: str, count: int = COUNT, limit: float = 0
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DAEMON, bench.state, bench.node, script, str(count), str(limit)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def crash(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


async def outcome(bench: Bench, id: str) -> Exit | None:
    found = bench.host.adopt(id, bench.dir(id))
    return await found.ended() if isinstance(found, Kept) else found


@pytest.mark.parametrize("seed", range(8))
async def test_no_output_and_no_exit_code_is_lost(bench: Bench, seed: int):
    process = daemon(bench, WRITER)
    assert process.stdout is not None
    # From the first start on, some objects run, some are about to, some have ended.
    await trio.to_thread.run_sync(process.stdout.readline)
    await trio.sleep(random.Random(seed).uniform(0, 0.08))
    crash(process)
    whole = b"".join(b"line %d\n" % n for n in range(LINES))
    with trio.fail_after(20):
        for id in (f"o{n}" for n in range(COUNT)):
            end = await outcome(bench, id)
            if end is None:  # it had not come so far
                assert not keeper.lives(bench.dir(id))
                assert not (bench.dir(id) / "stdout").exists()
            else:
                assert (end.code, end.why) == (7, "")
                assert bench.out(id) == whole
    assert bench.groups() == []


async def test_an_adopted_object_can_do_all_that_another_can(bench: Bench):
    process = daemon(bench, "echo on; cat; sleep 60; :", 1)
    assert process.stdout is not None
    assert await trio.to_thread.run_sync(process.stdout.readline) == "o0\n"
    crash(process)
    running = bench.host.adopt("o0", bench.dir("o0"))
    assert isinstance(running, Kept)
    assert alive(running.pid)
    assert running.write_stdin(b"hello\n") == 6
    await bench.host.grown(bench.dir("o0") / "stdout", 8)
    running.close_stdin()
    await until(lambda: any(line == "sleep 60" for _, _, line in running.pids()))
    running.freeze()
    running.thaw()
    assert running.usage().pids == 2
    running.kill("over")
    end = await running.ended()
    assert end.why == "over"
    assert bench.out("o0") == b"on\nhello\n"


async def test_a_time_limit_holds_while_the_daemon_is_dead(bench: Bench):
    process = daemon(bench, "sleep 60", 1, limit=0.5)
    assert process.stdout is not None
    await trio.to_thread.run_sync(process.stdout.readline)
    crash(process)
    with trio.fail_after(10):
        await until(lambda: not keeper.lives(bench.dir("o0")))
    end = bench.host.adopt("o0", bench.dir("o0"))
    assert isinstance(end, Exit)
    assert end.why == "time limit"


@pytest.mark.parametrize("grouped", [True, False], ids=["group", "no-group"])
@pytest.mark.parametrize("known", [True, False], ids=["waited-for", "adopted"])
async def test_a_killed_keeper_is_noticed_and_its_object_ends(bench, grouped, known):
    if not grouped:
        bench.host.groups.bases.clear()
    running = await bench.sh("a", "sleep 601 & sleep 602")
    await until(lambda: len(running.pids()) == 3)
    pids = [pid for pid, _, _ in running.pids()]
    os.kill(int(keeper.read_keeper(bench.dir("a"))["keeper"]), signal.SIGKILL)
    if not known:
        await until(lambda: not keeper.lives(bench.dir("a")))
    end = await running.ended() if known else bench.host.adopt("a", bench.dir("a"))
    assert isinstance(end, Exit)
    assert (end.pid, end.code, end.why) == (running.pid, None, DIED)
    await until(lambda: not [pid for pid in pids if alive(pid)])
    assert bench.groups() == []
    if not known:
        await running.ended()


@pytest.mark.parametrize("led", [True, False], ids=["leader", "members"])
async def test_what_has_its_pid_after_a_restart_of_the_machine_is_spared(bench, led):
    """The record of a keeper outlives the machine, and pids are given anew."""
    running = await bench.sh("a", "exec sleep 603")
    record = bench.dir("a") / "keeper"
    text = record.read_text()
    running.kill("over")
    await running.ended()
    (bench.dir("a") / "exit").unlink()
    script = "sleep 604" if led else "sleep 604 & echo $!"
    other = subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=-1, text=True)
    pid = other.pid
    if not led:
        pid = int(other.stdout.readline())
        other.wait()
    try:
        record.write_text(text.replace(f"pid={running.pid} ", f"pid={other.pid} "))
        os.utime(record, (1e9, 1e9))
        bench.host.groups.bases.clear()
        end = bench.host.adopt("a", bench.dir("a"))
        assert (end.pid, end.why) == (other.pid, DIED)
        await trio.sleep(0.2)
        assert alive(pid)
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()
        other.stdout.close()


async def test_nothing_is_found_where_nothing_ran(bench: Bench):
    bench.dir("a").mkdir()
    assert bench.host.adopt("a", bench.dir("a")) is None
    assert bench.host.adopt("b", bench.dir("b")) is None


async def test_discard_removes_all_and_refuses_what_runs(bench: Bench):
    running = await bench.start("a", "sleep", "60")
    with pytest.raises(Exception, match="still runs"):
        bench.host.discard("a", bench.dir("a"))
    running.kill("test")
    await running.ended()
    bench.host.discard("a", bench.dir("a"))
    assert list(bench.dir("a").iterdir()) == []
    bench.host.discard("a", bench.dir("a"))


async def test_a_cancelled_start_can_be_adopted(bench: Bench):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(bench.start, "a", "sleep", "60", limits=Limits(time=30)))
        await until(lambda: keeper.lives(bench.dir("a")))
        nursery.cancel_scope.cancel()
    running = bench.host.adopt("a", bench.dir("a"))
    assert isinstance(running, Kept)
    running.kill("test")
    assert (await running.ended()).why == "test"


async def test_a_keeper_is_small(bench: Bench):
    running = await bench.start("a", "sleep", "60")
    pid = int(keeper.read_keeper(bench.dir("a"))["keeper"])
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    own = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
    assert own[0] < 300  # kB; its text is shared by all keepers
    running.kill("test")
    await running.ended()
    assert pid not in [pid for pid, _ in processes()]
