"""The runtime sandbox, in real containers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.node import keeper, sandbox, seccomp
from cloudfs.node.api import Launch, Limits
from cloudfs.node.running import DIED, Kept
from cloudfs.node.uids import USER
from tests.node.conftest import Bench, alive, need
from tests.node.test_host import until


@pytest.fixture(autouse=True)
def usable(bench: Bench) -> None:
    need(bench.host.sandbox.word)


async def told(bench: Bench, script: str, **more: object) -> str:
    """What a script prints in a sandbox that ends well."""
    running = await bench.sh("a", script, runtime="sandbox", **more)
    with trio.fail_after(30):
        end = await running.ended()
    assert end.code == 0, bench.out("a", "stderr")
    return bench.out("a").decode()


async def test_it_is_alone_in_there(bench: Bench):
    text = await told(
        bench, "echo $$; id -u; pwd; hostname; ls -d /proc/[0-9]* | wc -l; ls /home /root || true"
    )
    pid, uid, cwd, name, count = text.split()
    assert (pid, uid, cwd, name) == ("1", str(USER), "/work", "a")
    assert int(count) <= 4
    assert b"/home" in bench.out("a", "stderr")  # there is none
    assert bench.groups() == []


async def test_it_has_a_range_of_uids_of_its_own(bench: Bench):
    running = await bench.start("a", "sleep", "60", runtime="sandbox")
    uid = bench.host.sandbox_uid("a")
    assert os.stat(f"/proc/{running.pid}").st_uid == uid
    assert bench.host.sandbox_of(uid) == "a"
    assert bench.host.sandbox_of(0) is bench.host.sandbox_of(1000) is None
    running.kill("test")
    await running.ended()
    bench.host.discard("a", bench.dir("a"))
    assert bench.host.sandbox_uid("a") is None


async def test_only_its_own_directories_can_be_written(bench: Bench):
    script = "for d in / /usr /etc /bin /proc/sys/kernel /var /cloud; do touch $d/x && echo $d; done 2>/dev/null; "
    script += "for d in /work /tmp /dev/shm /var/tmp; do touch $d/x || echo no $d; done"
    assert await told(bench, script) == ""
    assert (bench.dir("a") / "work/x").exists()


async def test_common_programs_work(bench: Bench):
    script = """
    python3 -c 'import json, sqlite3, ssl, threading; print(json.dumps(ssl.OPENSSL_VERSION != ""))'
    printf 'b\\na\\n' | sort | tr -d '\\n'; echo; whoami; date >/dev/null; echo hi >/dev/stdout
    """
    assert await told(bench, script) == "true\nab\nuser\nhi\n"


async def test_it_has_no_powers(bench: Bench):
    script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | awk '{print $2}' | sort | uniq -c | awk '{print $2}'"
    assert (await told(bench, script)).split() == ["0000000000000000", "1", "2"]


@pytest.mark.parametrize(
    "command",
    [
        "unshare -U true",
        "mount -t tmpfs none /tmp",
        "/usr/sbin/chroot / true",
        "nsenter -t 1 -u true",
    ],
)
async def test_the_kernel_is_kept_from_it(bench: Bench, command: str):
    running = await bench.sh("a", command, runtime="sandbox")
    assert (await running.ended()).code not in (0, 127)


async def test_refused_calls_fail_and_others_do_not(bench: Bench):
    script = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "for number in (425, 323, 298, 321, 435, 39):\n"  # io_uring, userfaultfd, perf, bpf, clone3, getpid
        "    print(libc.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno())\n"
    )
    need("" if os.uname().machine == "x86_64" else "the numbers are those of x86_64")
    running = await bench.start("a", "python3", "-c", script, runtime="sandbox")
    await running.ended()
    assert bench.out("a").decode().splitlines() == ["-1 1", "-1 1", "-1 1", "-1 1", "-1 38", "1 38"]


async def test_a_network_of_its_own_is_empty(bench: Bench):
    assert await told(bench, "tail -n +3 /proc/net/dev | wc -l", net="none") in ("0\n", "1\n")
    assert os.readlink("/proc/self/ns/net")


async def test_a_directory_is_shown_at_cloud(bench: Bench, tmp_path: Path):
    tmp_path.chmod(0o755)
    (tmp_path / "hello").write_text("from outside\n")
    cloud = bench.state / "shown"
    cloud.mkdir(mode=0o755)
    (cloud / "hello").write_text("from outside\n")
    assert await told(bench, "cat /cloud/hello", cloud=str(cloud)) == "from outside\n"


async def test_limits_hold(bench: Bench):
    limits = Limits(mem=64 << 20, pids=20, cpu=0.5)
    script = "(for i in $(seq 40); do sleep 0.5 & done) 2>&1 | grep -c fork; exec python3 -c 'bytearray(200 << 20)'"
    running = await bench.sh("a", script, runtime="sandbox", limits=limits)
    with trio.fail_after(30):
        end = await running.ended()
    assert (end.signal, end.why) == (signal.SIGKILL, "out of memory")
    assert bench.out("a").strip() == b"1"
    assert running.usage().mem_peak > 50 << 20


async def test_exit_codes_and_stdin(bench: Bench):
    running = await bench.sh("a", "cat; exit 6", runtime="sandbox")
    running.write_stdin(b"through\n")
    running.close_stdin()
    assert (await running.ended()).code == 6
    assert bench.out("a") == b"through\n"


async def test_signals_end_process_1_as_they_end_others(bench: Bench):
    running = await bench.start("a", "sleep", "60", runtime="sandbox")
    running.signal(signal.SIGWINCH)
    running.signal(signal.SIGTERM)
    with trio.fail_after(10):
        end = await running.ended()
    assert (end.code, end.signal, end.why) == (None, signal.SIGTERM, "")
    running = await bench.sh(
        "a", "trap 'exit 3' TERM; echo on; while :; do sleep 0.01; done", runtime="sandbox"
    )
    await bench.host.grown(bench.dir("a") / "stdout", 0)
    running.signal(signal.SIGTERM)
    assert (await running.ended()).code == 3


async def test_kill_freeze_and_processes(bench: Bench):
    script = "setsid sh -c 'while :; do echo x; sleep 0.01; done' & sleep 60; :"
    running = await bench.sh("a", script, runtime="sandbox")
    out = bench.dir("a") / "stdout"
    await bench.host.grown(out, 2)
    pids = [pid for pid, _, _ in running.pids()]
    assert running.pid in pids
    running.freeze()
    await trio.sleep(0.1)
    size = out.stat().st_size
    await trio.sleep(0.1)
    assert out.stat().st_size == size
    running.thaw()
    await bench.host.grown(out, size)
    running.kill("enough")
    assert (await running.ended()).why == "enough"
    assert not [pid for pid in pids if alive(pid)]


BAD = {
    "unknown": ("nosuch", "", "absent"),
    "outside": ("/home/x", "", "absent"),
    "no-work": ("/work/nosuch", "", "absent"),
    "not-a-program": ("/etc/passwd", "", "denied"),
    "no-cwd": ("true", "/usr/nosuch", "absent"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_start_that_fails_says_why_and_leaves_nothing(bench: Bench, case: str):
    name, cwd, kind = BAD[case]
    with pytest.raises(CloudError) as caught:
        await bench.start("a", name, cwd=cwd, runtime="sandbox")
    assert caught.value.kind == kind, caught.value
    assert not bench.dir("a").exists()
    assert bench.host.sandbox_uid("a") is None
    assert bench.groups() == []
    home = bench.host.sandbox.home / "runc"
    assert not home.exists() or list(home.iterdir()) == []


async def test_it_outlives_the_daemon(bench: Bench):
    running = await bench.sh("a", "read line; echo got $line; exit 4", runtime="sandbox")
    again = bench.host.adopt("a", bench.dir("a"))
    assert isinstance(again, Kept)
    assert again.pid == running.pid
    again.write_stdin(b"it\n")
    assert (await again.ended()).code == 4
    assert bench.out("a") == b"got it\n"
    assert not (bench.host.sandbox.home / "runc" / "a").exists()


async def test_a_killed_keeper_takes_the_sandbox_along(bench: Bench):
    running = await bench.start("a", "sleep", "60", runtime="sandbox")
    os.kill(int(keeper.read_keeper(bench.dir("a"))["keeper"]), signal.SIGKILL)
    assert (await running.ended()).why == DIED
    await until(lambda: not alive(running.pid))
    assert bench.groups() == []


async def test_a_very_deep_tree_can_be_removed(bench: Bench):
    script = "import os\nfor n in range(4000): os.mkdir('d'); os.chdir('d')\n"
    running = await bench.start("a", "python3", "-c", script, runtime="sandbox")
    assert (await running.ended()).code == 0
    bench.host.discard("a", bench.dir("a"))
    assert list(bench.dir("a").iterdir()) == []


async def test_a_start_that_hangs_is_given_up(bench: Bench, monkeypatch, autojump_clock):
    slow = bench.state / "runc"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    bench.host.sandbox.runc = str(slow)
    with pytest.raises(CloudError) as caught:
        await bench.start("a", "true", runtime="sandbox")
    assert caught.value.kind == "timeout"
    assert not bench.dir("a").exists()
    assert not keeper.lives(bench.dir("a"))


async def test_work_stays_from_run_to_run(bench: Bench):
    await told(bench, "echo kept >/work/file")
    assert await told(bench, "cat /work/file") == "kept\n"


# --- the bundle, without running it ---------------------------------------------------


def test_the_bundle_gives_nothing_away():
    launch = Launch("a", Path("/s/a"), ["x"], {"K": "V"}, "", "sandbox", Limits(pids=3), net="none")
    config = sandbox.bundle(launch, Path("/s/sandbox"), 1 << 28, "/cloudfs/n/a")
    assert json.loads(json.dumps(config)) == config
    process, linux = config["process"], config["linux"]
    assert not any(process["capabilities"].values())
    assert process["noNewPrivileges"] is True
    assert "rlimits" not in process
    assert process["cwd"] == "/work"
    assert process["env"] == ["K=V"]
    kinds = {one["type"] for one in linux["namespaces"]}
    assert kinds == {"pid", "ipc", "uts", "mount", "user", "network"}
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1 << 28, "size": 65536}]
    assert linux["resources"]["pids"] == {"limit": 3}
    for mount in config["mounts"]:
        if mount["type"] == "bind" and mount["source"].startswith(("/usr", "/etc", "/s/sandbox")):
            assert "ro" in mount["options"]


def test_the_profile_allows_by_default_and_refuses_by_name():
    made = seccomp.profile("x86_64")
    assert made["defaultAction"] == "SCMP_ACT_ALLOW"
    refused = {name for rule in made["syscalls"] if "args" not in rule for name in rule["names"]}
    assert {"mount", "bpf", "setns", "io_uring_setup", "reboot", "keyctl", "clone3"} <= refused
    assert not {"ptrace", "read", "clone", "unshare", "socket", "execve"} & refused
    assert seccomp.profile("riscv64")["architectures"] == []
