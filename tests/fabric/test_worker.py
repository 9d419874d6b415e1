"""Jobs out, events in: in order, bounded, and a flood costs one wake-up."""

import threading

import trio

from cloudfs.fabric.worker import Inbox, Worker
from tests.fabric.conftest import eventually


async def test_jobs_are_done_in_order_and_the_last_at_last():
    done = []
    worker = Worker("test")
    gate = threading.Event()
    worker.add(gate.wait)
    await eventually(lambda: worker.since is not None)
    worker.keep(("a",), lambda: done.append("old"))
    worker.keep(("a",), lambda: done.append("new"))
    worker.add(lambda: 1 / 0)  # what fails does not end it
    worker.add(lambda: done.append("b"))
    gate.set()
    await eventually(lambda: done == ["new", "b"])
    assert worker.since is None
    worker.stop(lambda: done.append("end"))
    worker.add(lambda: done.append("never"))
    await eventually(lambda: done == ["new", "b", "end"])


async def test_a_flood_wakes_trio_once():
    inbox = Inbox(trio.lowlevel.current_trio_token())
    wakes, got = [], []
    run = inbox._run
    inbox._run = lambda: (wakes.append(1), run())

    def flood():
        for turn in range(500):
            inbox.keep(("k", str(turn % 10)), lambda turn=turn: got.append(turn))
            inbox.add(lambda: got.append("told"))
        inbox.add(lambda: 1 / 0)

    thread = threading.Thread(target=flood)
    thread.start()
    thread.join()  # trio stands still meanwhile
    await eventually(lambda: got)
    assert len(wakes) == 1
    assert [each for each in got if each != "told"] == list(range(490, 500))
    assert got.count("told") == 500
    inbox.close()
    inbox.add(lambda: got.append("late"))
    await trio.sleep(0.05)
    assert "late" not in got


def test_events_after_the_end_of_trio_are_dropped():
    async def main():
        return Inbox(trio.lowlevel.current_trio_token())

    inbox = trio.run(main)
    inbox.add(lambda: 1 / 0)
    inbox.keep(("k",), lambda: 1 / 0)
