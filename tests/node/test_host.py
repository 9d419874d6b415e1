"""Real processes under real keepers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.node.api import Limits
from cloudfs.wait import settle
from tests.node.conftest import Bench, alive, processes


@pytest.mark.parametrize(
    ("script", "code", "number"),
    [
        ("exit 0", 0, None),
        ("exit 7", 7, None),
        ("exit 255", 255, None),
        ("kill -TERM $$", None, signal.SIGTERM),
        ("kill -KILL $$", None, signal.SIGKILL),
        ("kill -SEGV $$", None, signal.SIGSEGV),
    ],
)
async def test_the_exit_record_tells_how_it_ended(bench, script, code, number):
    running = await bench.sh("a", script)
    end = await running.ended()
    assert (end.pid, end.code, end.signal, end.why) == (running.pid, code, number, "")
    assert end.real > 0
    assert bench.host.adopt("a", bench.dir("a")) == end
    assert bench.groups() == []


async def test_many_wait_for_one_end(bench):
    running = await bench.sh("a", "sleep 0.2; exit 3")
    codes = []

    async def wait() -> None:
        codes.append((await running.ended()).code)

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.05):  # one gives up, and the others still hear
            await running.ended()
        for _ in range(5):
            nursery.start_soon(wait)
    assert codes == [3] * 5


async def test_a_program_gets_its_arguments_environment_and_directory(bench, tmp_path):
    script = 'printf "%s|" "$@"; printf "%s %s" "$GREETING" "$(pwd -P)"; env | wc -l'
    words = ["a b", "", "it's", "üñ", "x=y"]
    running = await bench.start(
        "a", "sh", "-c", script, "sh", *words, cwd=str(tmp_path), env={"GREETING": "hello"}
    )
    assert (await running.ended()).code == 0
    assert bench.out("a").decode().startswith(f"a b||it's|üñ|x=y|hello {tmp_path.resolve()}")


async def test_a_program_starts_with_usual_signals_files_and_session(bench):
    script = "import os,resource,signal\n"
    script += "print(sorted(os.listdir('/proc/self/fd'))[:3], len(os.listdir('/proc/self/fd')))\n"
    script += "print(open('/proc/self/status').read())\n"
    script += "print(os.getsid(0) == os.getpid(), resource.getrlimit(7)[0] <= 1024)\n"
    running = await bench.start("a", "/usr/bin/env", "python3", "-c", script)
    assert (await running.ended()).code == 0, bench.out("a", "stderr")
    text = bench.out("a").decode()
    assert text.startswith("['0', '1', '2'] 4\n")  # and the listing's own
    assert "SigBlk:\t0000000000000000" in text
    assert text.endswith("True True\n")


async def test_stdout_and_stderr_are_files_of_their_own(bench):
    running = await bench.sh("a", "echo out; echo err >&2; printf more")
    await running.ended()
    assert bench.out("a") == b"out\nmore"
    assert bench.out("a", "stderr") == b"err\n"


async def test_output_goes_on_when_an_object_is_started_again(bench):
    for number in range(3):
        await (await bench.sh("a", f"echo {number}")).ended()
    assert bench.out("a") == b"0\n1\n2\n"


async def test_the_words_of_a_process_are_one_line(bench):
    running = await bench.sh("a", "sleep 60; true\n  1  0 init", env={"A": "b"})
    (command,) = [line for pid, _, line in running.pids() if pid == running.pid]
    assert command == "sh -c sleep 60; true?  1  0 init"
    running.kill("test")
    await running.ended()


async def test_an_object_cannot_be_started_twice(bench):
    running = await bench.start("a", "sleep", "60")
    with pytest.raises(CloudError) as caught:
        await bench.start("a", "true")
    assert caught.value.kind == "busy"
    running.kill("test")
    await running.ended()


async def test_large_output_is_whole(bench):
    running = await bench.sh("a", "seq 300000")
    await running.ended()
    assert bench.out("a") == b"".join(b"%d\n" % n for n in range(1, 300001))


# --- stdin ---------------------------------------------------------------------------


async def test_stdin_stays_open_until_it_is_closed(bench):
    running = await bench.start("a", "cat")
    assert running.write_stdin(b"one\n") == 4
    with trio.move_on_after(0.1):
        await running.ended()
    assert running.write_stdin(b"two\n") == 4
    running.close_stdin()
    assert (await running.ended()).code == 0
    assert bench.out("a") == b"one\ntwo\n"
    with pytest.raises(CloudError) as caught:
        running.write_stdin(b"three\n")
    assert caught.value.kind == "pipe"


async def test_a_full_stdin_waits_and_loses_nothing(bench):
    running = await bench.sh("a", "sleep 0.2; cat")
    sent = 0
    block = b"x" * 30000
    for _ in range(10):
        sent += await settle(running.write_stdin(block))
    running.close_stdin()
    assert (await running.ended()).code == 0
    assert sent > 65536
    assert bench.out("a") == b"x" * sent


async def test_writing_to_one_that_has_ended_is_an_error(bench):
    running = await bench.start("a", "true")
    await running.ended()
    for act in (lambda: running.write_stdin(b"x"), lambda: running.kill("x")):
        with pytest.raises(CloudError) as caught:
            act()
        assert caught.value.kind in ("pipe", "absent")


# --- killing -------------------------------------------------------------------------

DAEMONS = """
for n in 1 2 3; do (setsid sh -c 'sleep 600 & exec sleep 600' &) ; done
(trap '' TERM HUP INT; exec setsid sleep 600) &
sleep 600
"""


# Processes that fork on and on, some in sessions of their own, and some of which each
# lives only until it has forked the next.
BOMB = """
import os, time
HOPPERS = 4
for n in range(40):
    if os.fork() == 0:
        if n % 2:
            os.setsid()
        while True:
            if os.fork():
                if n < HOPPERS:
                    os._exit(0)
                os.wait()
            elif n >= HOPPERS:
                os._exit(0)
time.sleep(600)
"""


async def until(condition) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.01)


@pytest.mark.parametrize("grouped", [True, False], ids=["group", "no-group"])
async def test_kill_takes_double_forked_daemons(bench: Bench, grouped: bool):
    if not grouped:
        bench.host.groups.bases.clear()
    running = await bench.sh("a", DAEMONS)
    await until(lambda: sum(line == "sleep 600" for _, _, line in running.pids()) == 8)
    pids = [pid for pid, _, _ in running.pids()]
    running.kill("it's enough")
    end = await running.ended()
    assert (end.signal, end.why) == (signal.SIGKILL, "it's enough")
    assert not [pid for pid in pids if alive(pid)]


@pytest.mark.parametrize("grouped", [True, False], ids=["group", "no-group"])
async def test_kill_takes_a_fork_bomb(bench: Bench, grouped: bool):
    if not grouped:
        bench.host.groups.bases.clear()
    running = await bench.start("a", "python3", "-c", BOMB)
    await trio.sleep(0.5)
    running.kill("bomb")
    with trio.fail_after(20):
        end = await running.ended()
    assert end.why == "bomb"
    assert not [line for _, line in processes() if "HOPPERS" in line]


async def test_an_object_runs_while_any_of_its_processes_does(bench):
    running = await bench.sh("a", "(sleep 0.3; echo late) & exit 5")
    end = await running.ended()
    assert end.code == 5
    assert end.real >= 0.3
    assert bench.out("a") == b"late\n"


async def test_signals_reach_the_program(bench):
    running = await bench.sh(
        "a", "trap 'echo caught; exit 9' USR1; echo on; while :; do sleep 0.01; done"
    )
    await bench.host.grown(bench.dir("a") / "stdout", 0)
    running.signal(signal.SIGUSR1)
    assert (await running.ended()).code == 9
    assert bench.out("a") == b"on\ncaught\n"


@pytest.mark.parametrize("grouped", [True, False], ids=["group", "no-group"])
async def test_freeze_stops_all_and_thaw_goes_on(bench: Bench, grouped: bool):
    if not grouped:
        bench.host.groups.bases.clear()
    tick = "while :; do echo x; sleep 0.01; done"
    running = await bench.sh("a", f"setsid sh -c '{tick}' & {tick}")
    out = bench.dir("a") / "stdout"
    await bench.host.grown(out, 4)
    running.freeze()
    await trio.sleep(0.1)
    size = out.stat().st_size
    await trio.sleep(0.15)
    assert out.stat().st_size == size
    running.thaw()
    with trio.fail_after(5):
        await bench.host.grown(out, size)
    running.freeze()
    running.kill("frozen ones die too")
    with trio.fail_after(5):
        assert (await running.ended()).why == "frozen ones die too"


# --- limits of time and output -------------------------------------------------------


async def test_a_time_limit_ends_it(bench):
    running = await bench.start("a", "sleep", "60", limits=Limits(time=0.2))
    with trio.fail_after(5):
        end = await running.ended()
    assert (end.signal, end.why) == (signal.SIGKILL, "time limit")
    assert 0.2 <= end.real < 5


async def test_a_time_limit_can_be_set_and_lifted_while_it_runs(bench):
    running = await bench.start("a", "sleep", "60", limits=Limits(time=0.5))
    running.set_limits(Limits())
    await trio.sleep(0.7)
    assert running.pids()
    running.set_limits(Limits(time=0.6))  # it has run longer than that
    with trio.fail_after(5):
        assert (await running.ended()).why == "time limit"


async def test_the_oldest_output_is_dropped_beyond_the_limit(bench):
    limit = 256 << 10
    running = await bench.sh("a", "seq 200000; seq 5 >&2", stdio_limit=limit)
    await running.ended()
    whole = b"".join(b"%d\n" % n for n in range(1, 200001))
    path = bench.dir("a") / "stdout"
    dropped = bench.host.dropped(bench.dir("a"), "stdout")
    assert path.stat().st_size == len(whole)
    assert limit * 3 // 4 <= len(whole) - dropped <= limit
    assert path.read_bytes()[dropped:] == whole[dropped:]
    assert path.stat().st_blocks * 512 <= limit + (64 << 10)
    assert bench.host.dropped(bench.dir("a"), "stderr") == 0
    assert bench.host.dropped(bench.dir("a"), "none") == 0


# --- starts that fail ----------------------------------------------------------------


def make(path: Path, text: str, mode: int) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


BAD_STARTS = {
    "unknown": (["no-such-program"], "/", "absent"),
    "unknown-path": (["/no/such/program"], "/", "absent"),
    "directory": (["/usr"], "/", "denied"),
    "closed": (["{closed}"], "/", "denied"),
    "not-a-program": (["{data}"], "/", "notexec"),
    "no-interpreter": (["{script}"], "/", "absent"),
    "no-cwd": (["true"], "/no/such/dir", "absent"),
    "cwd-is-a-file": (["true"], "/etc/passwd", "notdir"),
    "nothing": ([], "/", "bad"),
    "empty": ([""], "/", "bad"),
    "nul": (["echo", "a\0b"], "/", "bad"),
    "huge": (["echo", "x" * (5 << 20)], "/", "toobig"),
    "huge-word": (["echo", "x" * (1 << 20)], "/", "toobig"),
}


@pytest.mark.parametrize("case", BAD_STARTS)
async def test_a_start_that_fails_says_why_and_leaves_nothing(
    bench: Bench, tmp_path: Path, case: str
):
    files = {
        "closed": make(tmp_path / "closed", "#!/bin/sh\n", 0o644),
        "data": make(tmp_path / "data", "no program\n", 0o755),
        "script": make(tmp_path / "script", "#!/no/such/shell\n", 0o755),
    }
    argv, cwd, kind = BAD_STARTS[case]
    with pytest.raises(CloudError) as caught:
        await bench.start("a", *(word.format(**files) for word in argv), cwd=cwd)
    assert caught.value.kind == kind
    assert caught.value.why
    assert not bench.dir("a").exists()
    assert bench.groups() == []


async def test_a_failed_start_keeps_what_an_earlier_run_wrote(bench, tmp_path):
    await (await bench.sh("a", "echo first")).ended()
    data = make(tmp_path / "data", "no program\n", 0o755)
    with pytest.raises(CloudError):
        await bench.start("a", data)
    assert bench.out("a") == b"first\n"


@pytest.mark.parametrize("limits", [Limits(cpu=0), Limits(mem=-1), Limits(time=0), Limits(pids=0)])
async def test_limits_that_make_no_sense_are_refused(bench, limits):
    with pytest.raises(CloudError) as caught:
        bench.host.check(bench.launch("a", "true", limits=limits))
    assert caught.value.kind == "bad"


async def test_limits_are_refused_where_there_are_no_groups(bench):
    bench.host.groups.bases.clear()
    with pytest.raises(CloudError) as caught:
        await bench.start("a", "true", limits=Limits(pids=5))
    assert caught.value.kind == "unsupported"
    assert caught.value.fix
    running = await bench.start("a", "sleep", "60")
    with pytest.raises(CloudError):
        running.set_limits(Limits(mem=1 << 24))
    running.kill("test")
    await running.ended()


async def test_nice_is_set_and_changed(bench):
    running = await bench.start("a", "sleep", "60", nice=5)
    assert os.getpriority(os.PRIO_PROCESS, running.pid) == 5
    running.set_nice(7)
    assert os.getpriority(os.PRIO_PROCESS, running.pid) == 7
    running.kill("test")
    await running.ended()


# --- what it used --------------------------------------------------------------------

BURN = "import os,time\nb=bytearray(60_000_000)\nt=time.process_time()\nwhile time.process_time()-t<0.4: pass\n"


@pytest.mark.parametrize("grouped", [True, False], ids=["group", "no-group"])
async def test_usage_is_plausible_while_it_runs_and_after(bench: Bench, grouped: bool):
    if not grouped:
        bench.host.groups.bases.clear()
    script = (
        BURN
        + f"if os.fork()==0:\n exec({BURN!r}); os._exit(0)\nos.wait()\nprint('done',flush=True)\ntime.sleep(60)"
    )
    running = await bench.start("a", "python3", "-c", script)
    await bench.host.grown(bench.dir("a") / "stdout", 0)
    used = running.usage()
    assert 0.75 <= used.user + used.sys < 10  # the child that it waited for is in it
    assert used.mem > 55_000_000
    assert used.pids == 1
    running.kill("test")
    end = await running.ended()
    final = running.usage()
    assert final.user + final.sys >= used.user + used.sys - 0.02
    assert end.user + end.sys == pytest.approx(final.user + final.sys, abs=0.05)
    assert final.mem == final.pids == 0
    assert final.mem_peak > 55_000_000
