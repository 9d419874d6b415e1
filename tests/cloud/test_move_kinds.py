"""Objects of every kind that processes can be go on with all that they had: moved to another
node, or brought back from an image that they kept.  All kinds are at it at the same time."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from cloudfs import ndb
from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect
from tests.cloud.views import SLACK, settle

SOON = 60.0 * SLACK  # seconds for one to move, beside all the others

# Each says "up", is moved, reads a line, and tells what it finds.
HEAD = """
import fcntl, hashlib, os, random, signal, subprocess, sys, threading, time
os.chdir(os.environ["DIR"])
def up():
    print("up", flush=True)
    return sys.stdin.readline().strip()
"""


@dataclass(frozen=True)
class Kind:
    """says: what it prints after "up"; code: with which it ends."""

    program: str
    says: str
    code: int = 0


def memory(megabytes: int) -> Kind:
    """The same bytes as before: random ones, which nothing could compress or share."""
    data = f"random.Random({megabytes}).randbytes({megabytes} << 20)"
    program = f"data = {data}\nup()\nprint(hashlib.sha256(data).hexdigest())"
    digest = hashlib.sha256(random.Random(megabytes).randbytes(megabytes << 20))
    return Kind(program, digest.hexdigest())


KINDS = {
    "children": Kind(
        """
shell = subprocess.Popen(["sh", "-c", "cat | tr a-z A-Z | (read x; echo got $x)"],
                         stdin=-1, stdout=-1)
deep = subprocess.Popen(["sh", "-c", "sh -c 'sh -c \\"read x; exit 5\\"; exit $?'; exit $?"], stdin=-1)
go = up()
print(shell.communicate(go.encode() + b"\\n")[0].decode().strip(), end=" ")
deep.communicate(b"\\n")
print(deep.returncode)
""",
        "got GO 5",
    ),
    "a child that nobody has waited for": Kind(
        """
child = os.fork() or os._exit(7)
time.sleep(0.3)
up()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
        "7",
    ),
    "threads": Kind(
        """
counts, over = [0] * 8, threading.Event()
def work(at):
    while not over.is_set():
        counts[at] += 1
        time.sleep(0.005)
threads = [threading.Thread(target=work, args=[at]) for at in range(8)]
for one in threads: one.start()
up()
before = list(counts)
while not all(b < c for b, c in zip(before, counts)): time.sleep(0.01)
over.set()
for one in threads: one.join()
print("all", len(threads))
""",
        "all 8",
    ),
    "files": Kind(
        """
log, plain = open("log", "a"), open("plain", "w+")
gone = open("gone", "w+"); gone.write("kept"); gone.flush(); os.unlink("gone")
big = open("big", "w+b"); big.write(b"x" * (3 << 20)); big.flush(); os.unlink("big")
log.write("one "); log.flush(); plain.write("0123456789"); plain.flush(); plain.seek(4)
if os.getcwd() == "/work": fcntl.flock(plain, fcntl.LOCK_EX)  # else both nodes have this file
up()
log.write("two"); log.close(); gone.seek(0)
rival = open("plain")
try: fcntl.flock(rival, fcntl.LOCK_EX | fcntl.LOCK_NB); locked = False
except BlockingIOError: locked = True
print(locked == (os.getcwd() == "/work"), end=" ")
print(open("log").read(), plain.read(), gone.read(), os.fstat(big.fileno()).st_size)
""",
        f"True one two 456789 kept {3 << 20}",
    ),
    "a full pipe": Kind(
        """
r, w = os.pipe()
os.set_blocking(w, False)
data = random.Random(7).randbytes(1 << 20)
sent = os.write(w, data)
up()
got = b""
while len(got) < sent: got += os.read(r, sent - len(got))
print(sent >= 4096, got == data[:sent])
""",
        "True True",
    ),
    "a timer and a signal that waits": Kind(
        """
got = []
signal.signal(signal.SIGALRM, lambda *a: got.append("alarm"))
signal.signal(signal.SIGUSR1, lambda *a: got.append("usr1"))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGALRM])
os.kill(os.getpid(), signal.SIGUSR1)
signal.setitimer(signal.ITIMER_REAL, 3600)
go = up()
print(1 < signal.getitimer(signal.ITIMER_REAL)[0] < 3600, end=" ")
signal.setitimer(signal.ITIMER_REAL, 0.05)
time.sleep(0.2)
print(got, end=" ")
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1, signal.SIGALRM])
print(sorted(got))
""",
        "True [] ['alarm', 'usr1']",
    ),
    "its own settings": Kind(
        """
os.umask(0o027); os.nice(3); os.mkdir("deep"); os.chdir("deep")
def mine():
    return os.getpid(), os.getpgid(0), os.getsid(0), os.environ["WORD"], os.getcwd(), os.nice(0)
before = mine()
up()
print(before == mine(), oct(os.umask(0)))
sys.stdout.flush()
os._exit(9)
""",
        "True 0o27",
        9,
    ),
    "1 MB": memory(1),
    "10 MB": memory(10),
    "100 MB": memory(100),
}

# Both streams all the time, each line with its number.
WRITER = """
up()
for n in range(20000):
    os.write(1, b"%d\\n" % n)
    if n % 3 == 0: os.write(2, b"%d\\n" % n)
    if n % 20 == 0: time.sleep(0.005)
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Net(2) as found:
        yield settle(found)


def begin(node: Machine, runtime: str, program: str) -> str:
    place = "/work" if runtime == "sandbox" else tempfile.mkdtemp()
    id = node.read("proc/clone", seconds=SOON).strip()
    run = f"exec python3 -c {ndb.quote(f'exec({HEAD + program!r})')}"
    for line in (f"runtime {runtime}", f"on {node.name}", f"env DIR={place} WORD=there", run):
        node.write(line, "proc", id, "ctl", seconds=SOON)

    def up() -> None:
        text = node.read("proc", id, "stdout", seconds=SOON)
        expect(text, "up\n", node.read("proc", id, "stderr", seconds=SOON) or "stdout")

    eventually(up, SOON)
    return id


def carried(net: Net, id: str, how: str) -> Machine:
    """Where the object is after it went through that."""
    node = net["n1"]
    lines = ["move n2"] if how == "moved" else ["checkpoint kept", "kill", "restore kept"]
    for line in lines:
        word = f'echo {line} >"$cloud/proc/{id}/ctl" || cloudfs why'
        expect(node.sh(word, seconds=SOON), "", line)
    return net["n2"] if how == "moved" else node


def one(net: Net, kind: str, runtime: str, how: str) -> None:
    wanted = KINDS[kind]
    id = begin(net["n1"], runtime, wanted.program)
    node = carried(net, id, how)
    node.write("go", "proc", id, "stdin", seconds=SOON)

    def over() -> None:
        expect(node.status("proc", id, "status", seconds=SOON)["state"], "exited", kind)

    eventually(over, SOON)
    said = node.read("proc", id, "stdout", seconds=SOON), node.read("proc", id, "stderr")
    expect(said, (f"up\n{wanted.says}\n", ""), kind)
    expect(ndb.parse(node.read("proc", id, "wait"))["code"], str(wanted.code), kind)
    node.write("wipe", "proc", id, "ctl", seconds=SOON)


@pytest.mark.parametrize("how", ["moved", "brought back"])
@pytest.mark.parametrize("runtime", ["process", "sandbox"])
def test_all_kinds_go_on_with_all_they_had(net: Net, runtime: str, how: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        running = {kind: threads.submit(one, net, kind, runtime, how) for kind in KINDS}
    failed = {kind: found.exception() for kind, found in running.items() if found.exception()}
    assert not failed, failed


@pytest.mark.parametrize("runtime", ["process", "sandbox"])
def test_what_is_written_meanwhile_is_there_once_and_at_its_place(net: Net, runtime: str) -> None:
    id = begin(net["n1"], runtime, WRITER)
    net["n1"].write("go", "proc", id, "stdin")
    for source, target in (("n1", "n2"), ("n2", "n1")):
        net[source].write(f"move {target}", "proc", id, "ctl", seconds=SOON)
    waiting = net["n2"].path(".follow", ".MaxTime=60", "proc", id, "wait")
    net["n2"].run("cat", waiting, seconds=SOON)
    out = "".join(f"{n}\n" for n in range(20000))
    assert net["n2"].read("proc", id, "stdout") == f"up\n{out}"
    err = "".join(f"{n}\n" for n in range(0, 20000, 3))
    assert net["n2"].read("proc", id, "stderr") == err
    tail = f"dd if=$cloud/proc/{id}/stdout bs=1 skip={len(out) - 47} count=50 2>/dev/null"
    assert net["n1"].sh(tail) == f"up\n{out}"[-50:]
    assert net["n1"].sh(f"stat -c %s $cloud/proc/{id}/stdout").strip() == str(len(out) + 3)
