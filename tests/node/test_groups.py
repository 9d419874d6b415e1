"""Control groups on this machine: what limits do, and that nothing stays."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from cloudfs.node.api import Limits
from tests.node.conftest import Bench, need
from tests.node.test_host import until

EAT = "b = []\nwhile True: b.append(bytearray(1 << 20)); print(len(b), flush=True)\n"
FORKS = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait"


@pytest.fixture(autouse=True)
def groups(bench: Bench) -> None:
    need(bench.host.limits_word())


@pytest.mark.parametrize("late", [False, True], ids=["at-start", "while-running"])
async def test_a_memory_limit_ends_what_exceeds_it(bench: Bench, late: bool):
    limits = Limits(mem=40 << 20)
    if late:
        running = await bench.start("a", "python3", "-c", "input()\n" + EAT)
        running.set_limits(limits)
        running.write_stdin(b"\n")
    else:
        running = await bench.start("a", "python3", "-c", EAT, limits=limits)
    with trio.fail_after(30):
        end = await running.ended()
    assert (end.signal, end.why) == (signal.SIGKILL, "out of memory")
    used = running.usage()
    assert 30 << 20 < used.mem_peak <= 40 << 20
    assert int(bench.out("a").split()[-1]) < 40


@pytest.mark.parametrize("late", [False, True], ids=["at-start", "while-running"])
async def test_a_pids_limit_holds(bench: Bench, late: bool):
    limits = Limits(pids=5)
    if late:
        running = await bench.sh("a", f"read x; {FORKS}")
        running.set_limits(limits)
        running.write_stdin(b"\n")
    else:
        running = await bench.sh("a", FORKS, limits=limits)
    await until(lambda: b"fork" in bench.out("a", "stderr"))
    assert len(running.pids()) <= 5
    running.kill("test")
    await running.ended()


async def test_a_cpu_limit_slows_it_down(bench: Bench):
    script = "import time\nwhile time.process_time() < 0.3: pass\n"
    running = await bench.start("a", "python3", "-c", script, limits=Limits(cpu=0.25))
    end = await running.ended()
    assert end.code == 0
    assert end.real > 0.6  # 0.3 s of work at a quarter of a core takes 1.2
    assert end.user + end.sys < 0.75 * end.real


async def test_a_limit_can_be_lifted(bench: Bench):
    running = await bench.sh("a", FORKS, limits=Limits(pids=3))
    await until(lambda: b"fork" in bench.out("a", "stderr"))
    running.kill("test")
    await running.ended()
    running = await bench.sh("a", f"read x; {FORKS}", limits=Limits(pids=3))
    running.set_limits(Limits())
    running.write_stdin(b"\n")
    await until(lambda: len(running.pids()) == 10)
    running.kill("test")
    await running.ended()


async def test_an_object_without_limits_has_one_group(bench: Bench):
    running = await bench.start("a", "sleep", "60")
    homes = {path for _, path in running.group.places.values() if os.path.isdir(path)}
    assert homes == {running.group.place("whole")[1], running.group.place("time")[1]}
    running.kill("test")
    await running.ended()
    assert bench.groups() == []


async def test_groups_that_the_object_made_inside_go_too(bench: Bench):
    need("" if os.geteuid() == 0 else "only root can make control groups from inside")
    running = await bench.start("a", "sleep", "60")
    inner = running.group.place("whole")[1] + "/inner/most"
    os.makedirs(inner)
    running.kill("test")
    await running.ended()
    assert not os.path.exists(inner)


async def test_usage_counts_only_the_latest_run(bench: Bench):
    script = "import time\nwhile time.process_time() < 0.2: pass\n"
    for _ in range(2):
        running = await bench.start("a", "python3", "-c", script)
        await running.ended()
        assert 0.2 <= running.usage().user + running.usage().sys < 0.39
