"""Any schedule of faults: at its end all is healed, and within a bound all agree."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.sim.agree import agreed, wrong
from tests.sim.net import Net, Node

BOUND = 180.0  # seconds after the last fault; most schedules need a tenth


class Faults(RuleBasedStateMachine):
    """Faults come as hypothesis likes; nodes are never outside every zone meanwhile."""

    @initialize(
        seed=st.integers(0, 1000), count=st.sampled_from([3, 8, 34]), clusters=st.sampled_from(["a", "ab", "abcdefghijklmnopqrstu"]),
        loss=st.sampled_from([0.0, 0.05]),
    )  # fmt: skip
    def begin(self, seed: int, count: int, clusters: str, loss: float) -> None:
        self.net = Net(seed, loss=loss)
        self.clusters = clusters
        self.count = 0
        for _ in range(count):
            self.join()

    def join(self) -> Node:
        cluster = self.clusters[self.count % len(self.clusters)]
        node = self.net.start(f"n{self.count}", cluster, ["n0:5640", "n1:5640", "n2:5640"])
        self.count += 1
        self.net.run(0.3)
        return node

    def nodes(self, **which: bool) -> list[Node]:
        found = list(self.net.nodes.values())
        return [n for n in found if all(getattr(n, name) is value for name, value in which.items())]

    @rule(seconds=st.floats(0.5, 30.0))
    def time(self, seconds: float) -> None:
        self.net.run(seconds)
        for node in self.nodes(up=True):
            assert node.member.phase != "joined" or node.member.leaf in node.sessions

    @rule()
    @precondition(lambda self: self.count < 45)
    def joins(self) -> None:
        self.join()

    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        running = self.nodes(up=True)
        if len(running) > 2:
            self.net.kill(data.draw(st.sampled_from(running)))

    @rule(data=st.data())
    def restarts(self, data: st.DataObject) -> None:
        dead = self.nodes(up=False)
        if dead:
            old = data.draw(st.sampled_from(dead))
            self.net.start(old.name, old.member.cluster, ["n0:5640", "n1:5640", "n2:5640"])

    @rule(data=st.data())
    def stops(self, data: st.DataObject) -> None:
        self.net.stop(data.draw(st.sampled_from(self.nodes())))

    @rule(data=st.data())
    def goes_on(self, data: st.DataObject) -> None:
        stopped = self.nodes(stopped=True)
        if stopped:
            self.net.go_on(data.draw(st.sampled_from(stopped)))

    @rule(parts=st.integers(2, 3), both=st.booleans())
    def partition(self, parts: int, both: bool) -> None:
        nodes = self.nodes()
        for part in range(1, parts):
            self.net.cut(
                nodes[part::parts], [n for n in nodes if n not in nodes[part::parts]], both=both
            )

    @rule(data=st.data())
    def one_link(self, data: st.DataObject) -> None:
        nodes = self.nodes()
        self.net.cut([data.draw(st.sampled_from(nodes))], [data.draw(st.sampled_from(nodes))])

    @rule()
    def heal(self) -> None:
        self.net.heal()

    def teardown(self) -> None:
        if not hasattr(self, "net"):
            return
        self.net.heal()
        for node in self.nodes(stopped=True):
            self.net.go_on(node)
        self.net.loss = 0.0
        # Who has never met anybody knows only the seeds: where none of these runs, no core
        # could find the others, so one comes back.
        lonely = [
            n for n in self.nodes(up=True) if not any(r.peers for r in n.member.rosters.values())
        ]
        if lonely and not any(self.net.nodes[seed].up for seed in ("n0", "n1", "n2")):
            self.net.start("n0", "a", ["n0:5640", "n1:5640", "n2:5640"])
        try:
            self.net.until(agreed(self.net), BOUND, 2.0)
        except AssertionError as failure:
            raise AssertionError("\n".join(wrong(self.net)[:20])) from failure


Faults.TestCase.settings = settings(
    max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
TestFaults = Faults.TestCase
