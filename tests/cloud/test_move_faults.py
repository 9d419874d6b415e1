"""Every step of a move, and at each every fault: of a daemon, a machine, a link.

An object counts, to its output and to a file that all nodes share.  At no time do two of it
compute: a sampler looks, and a number that came twice in the file would tell.  In the end one
goes on where every node says that it does, or it is lost, the files say so, and an image
that it kept brings it back.
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from cloudfs import ndb
from cloudfs.node.api import DIED
from tests.cloud.faults import Held, Sampler, computing, power_off, power_on, traces
from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect
from tests.cloud.views import SLACK, all_up, settle

LONG = bool(os.environ.get("CLOUDFS_TEST_LONG"))
SOON = 30.0 * SLACK  # seconds for something that waits for nobody
AGREED = 90.0 * SLACK  # seconds until all say the same of it after a fault has ended
CUT = 20.0  # seconds for which a link is cut, unless the move has ended before
COUNT = 'i=0; while :; do echo $i; echo $i >>"$1"; i=$((i+1)); sleep 0.05; done'
_numbers = count(random.randrange(10**6) * 1000)

# Where a daemon stands still, the source's or the target's; after + come seconds for which
# it goes on before the fault, into what takes a while.
SOURCE = ("offer", "offered", "offered+0.05", "dumped", "carried", "commit", "committed", "gone")
TARGET = (
    *("expected", "fetch", "manifest", "piece", "fetched", "revive", "restore"),
    *("restore+0.03", "restored", "begun"),
)
STEPS = [("source", step) for step in SOURCE] + [("target", step) for step in TARGET]
FAULTS = (
    *("daemon source", "daemon target", "machine source", "machine target"),
    *("cut both", "cut there", "cut back"),
)
ALL = [(who, step, fault, "process") for who, step in STEPS for fault in FAULTS]
ALL += [
    (who, step, fault, "sandbox")
    for who, step in STEPS
    if step in ("offered+0.05", "dumped", "commit", "gone", "piece", "restore+0.03", "begun")
    for fault in FAULTS[:5]
]
SHORT = [
    ("source", "dumped", "daemon source", "process"),
    ("source", "commit", "daemon source", "process"),
    ("target", "begun", "daemon target", "process"),
    ("target", "piece", "machine source", "process"),
    ("target", "begun", "machine target", "process"),
    ("source", "commit", "cut both", "process"),
    ("target", "restore+0.03", "daemon target", "sandbox"),
]

# Where the memory was only on the machine that failed.
BEFORE = {"offer", "offered", "offered+0.05", "dumped", "carried", "commit"}
BEFORE |= {"expected", "fetch", "manifest", "piece", "fetched"}
AFTER = {"committed", "gone"}


def lost(step: str, fault: str) -> bool:
    """Whether its memory is gone with the machine."""
    if fault == "machine source":
        return step in BEFORE
    return fault == "machine target" and step in AFTER


class Nets:
    """One net for all, made anew after a test that has failed."""

    def __init__(self) -> None:
        self.net: Net | None = None
        self.held = Held()
        self.wiped: list[str] = []  # ids of which nothing may be left

    def get(self) -> Net:
        if self.net is None:
            self.net = settle(Net(3).__enter__())
        return self.net

    def spoilt(self) -> None:
        self.wiped.clear()
        net, self.net = self.net, None
        if net is not None:
            net.__exit__(None, None, None)


@pytest.fixture(scope="module")
def nets() -> Iterator[Nets]:
    found = Nets()
    try:
        yield found
        if found.net is not None:
            eventually(lambda: nothing_is_left(found.get(), found.wiped), AGREED, every=1)
    finally:
        found.spoilt()
        found.held.close()


def begin(node: Machine, mark: str, beats: Path, runtime: str) -> str:
    id = node.read("proc/clone").strip()
    path = "/dev/null" if runtime == "sandbox" else str(beats)
    program = f"exec sh -c {ndb.quote(COUNT)} {mark} {path}"
    for line in (f"runtime {runtime}", f"on {node.name}", "limit cpu=0.05", program):
        node.write(line, "proc", id, "ctl", seconds=SOON)
    eventually(lambda: expect("5" in node.read("proc", id, "stdout").split(), True), SOON)
    return id


class Case:
    def __init__(self, nets: Nets, who: str, step: str, fault: str) -> None:
        self.net, self.held = nets.get(), nets.held
        self.step, _, self.late = step.partition("+")
        self.node = self.net["n1" if who == "source" else "n2"]
        self.fault, self.on = fault.split()
        self.victim = self.net["n1" if self.on == "source" else "n2"]
        self.asking: subprocess.Popen[str] | None = None

    def move(self, id: str) -> None:
        """Have the object move, and wait until the daemon stands at the step."""
        line = 'echo move n2 >"$0" || cloudfs why'
        path = self.net["n1"].path("proc", id, "ctl")
        self.held.at(self.node, self.step)

        def there() -> None:
            if self.asking is None or self.asking.poll() is not None:
                # On a busy machine a node may be taken for silent for a moment.
                said = self.asking.communicate()[0] if self.asking else ""
                self.asking = self.net["n1"].start_command("sh", "-c", line, path, stdout=-1)
                time.sleep(0.5 if said else 0)
                assert not said, said
            self.held.check(self.node, self.step)

        eventually(there, SOON, every=0.01)

    def strike(self) -> None:
        """Have the fault happen, and let the daemon go on."""
        asking = self.asking
        assert asking is not None
        if self.late:
            self.node.thaw()
            time.sleep(float(self.late))
        if self.fault == "daemon":
            self.victim.kill()
        elif self.fault == "machine":
            power_off(self.net, self.victim.name)
        elif self.on == "both":
            self.net.cut("n1", "n2")
        else:
            self.net.cut_one_way(*(("n1", "n2") if self.on == "there" else ("n2", "n1")))
        if self.node.local.word() == "T":
            self.node.thaw()
        end = time.monotonic() + (CUT if self.fault == "cut" else 3.0)
        while asking.poll() is None and time.monotonic() < end:
            time.sleep(0.1)

    def mend(self) -> None:
        """The fault ends."""
        self.net.heal()
        if self.fault == "machine":
            power_on(self.net, self.victim.name)
        self.net.start()

    def end(self) -> None:
        if self.asking is not None:
            self.asking.kill()
            self.asking.communicate()
        self.held.forget()


def told(node: Machine, id: str) -> tuple[str, str, str]:
    """State, node and why, as a node tells them."""
    text = node.sh(f'cat "$cloud/proc/{id}/status" 2>&1 || cloudfs why')
    assert text.startswith("id="), f"{node.name}: {text}"
    record = ndb.parse(text)
    return record["state"], record["node"], record["why"]


def outcome(net: Net, id: str, mark: str) -> str:
    """Where it goes on, "" where it is lost; AssertionError as long as the nodes do not
    agree with each other and with what is true."""
    where = computing(mark)
    said = net.each(lambda node: told(node, id))
    assert len(set(said.values())) == 1, f"it computes at {where}, and they say {said}"
    ((state, node, why),) = set(said.values())
    if where:
        expect((state, [node]), ("running", where))
        assert id in net[node].ls("nodes", node, "proc")
        return node
    assert (state, why) == ("exited", DIED) or (state == "lost" and why), said
    assert "was told to" not in why, said
    return ""


def unfinished(node: Machine, id: str) -> list[Path]:
    """Images that only a move has which goes on."""
    return list((node.local.state / "objects" / id / "checkpoint").glob(".*"))


def in_turn(lines: list[str]) -> bool:
    return lines == [str(number) for number in range(len(lines))]


@pytest.mark.parametrize(("who", "step", "fault", "runtime"), ALL if LONG else SHORT)
def test_one_goes_on_or_it_is_lost(
    nets: Nets, who: str, step: str, fault: str, runtime: str
) -> None:
    net = nets.get()
    mark, beats = f"mark.{next(_numbers)}", Path(tempfile.mkdtemp()) / "beats"
    case = Case(nets, who, step, fault)
    whole = False
    try:
        id = begin(net["n1"], mark, beats, runtime)
        net["n1"].write("checkpoint kept", "proc", id, "ctl", seconds=SOON)
        with Sampler(mark) as seen:
            case.move(id)
            case.strike()
            case.mend()
            where = eventually(lambda: outcome(net, id, mark), AGREED, every=1)
            goes_on(net, where, id, beats, fault, runtime)
            if where == "":
                recovers(net, id, mark)
            node = net[net["n3"].status("proc", id, "status")["node"]]
            eventually(lambda: expect(unfinished(node, id), [], "images that are left"), SOON)
        assert seen.worst in ([], ["n1"], ["n2"]), f"at once: {seen.worst}"
        assert seen.looks > 10
        raced = case.late and case.fault == "machine"  # how far it came meanwhile is chance
        assert raced or (where == "") == lost(step, fault), f"it is {where or 'lost'}"
        if where:
            net[where].write("kill", "proc", id, "ctl", seconds=SOON)
            events = net[where].read("proc", id, "events")
            if where == "n1":
                assert "event=stay" in events, events
            elif fault != "daemon target":  # which had them in memory
                assert "event=began" in events, events
        wiped(nets, id)
        whole = True
    finally:
        case.end()
        if not whole:
            print(net.logs())
            nets.spoilt()


def goes_on(net: Net, where: str, id: str, beats: Path, fault: str, runtime: str) -> None:
    """It counts, and has left nothing out."""
    if where == "":
        return
    before = net[where].read("proc", id, "stdout").split()
    eventually(
        lambda: expect(len(net[where].read("proc", id, "stdout").split()) > len(before) + 5, True),
        SOON,
    )
    assert in_turn(net[where].read("proc", id, "stdout").split())
    if runtime == "process" and fault != "machine target":
        assert in_turn(beats.read_text().split())


def recovers(net: Net, id: str, mark: str) -> None:
    """One that is lost is brought back by its image, where there is one."""
    node = net[net["n3"].status("proc", id, "status")["node"]]
    kept = node.ls("proc", id, "checkpoint")
    if kept:
        node.write("restore kept", "proc", id, "ctl", seconds=SOON)
        eventually(lambda: expect(outcome(net, id, mark), node.name), SOON)
        node.write("kill", "proc", id, "ctl", seconds=SOON)


def wiped(nets: Nets, id: str) -> None:
    net = nets.get()
    node = net["n3"].status("proc", id, "status")["node"]
    net[node].write("wipe", "proc", id, "ctl", seconds=SOON)
    nets.wiped.append(id)
    eventually(lambda: all_up(net), SOON)


def nothing_is_left(net: Net, ids: list[str]) -> None:
    """Of any of them, once all that is held for them has expired."""
    assert [trace for id in ids for trace in traces(net, id)] == []
    for node in net:
        record = node.status("nodes", node.name, "status")
        expect(record["cpu.unreserved"], record["cpus"], f"cores free on {node.name}")
