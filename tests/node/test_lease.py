"""A lease: the keeper freezes an object in time, whoever is dead or asleep."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import trio

from cloudfs.errors import CloudError
from tests.node.conftest import Bench, need
from tests.node.test_host import until

COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"


def size(bench: Bench) -> int:
    return len(bench.out("a"))


async def grows(bench: Bench) -> None:
    before = size(bench)
    await until(lambda: size(bench) > before)


async def stands(bench: Bench) -> None:
    """It does not go on; what it wrote at the last moment may come late."""
    await trio.sleep(0.3)
    before = size(bench)
    await trio.sleep(0.5)
    assert size(bench) == before


@pytest.fixture
def host(bench: Bench):
    need("" if "whole" in bench.host.groups.bases else "freezing needs control groups")
    return bench.host


async def test_it_runs_out_and_is_renewed(bench: Bench, host):
    running = await bench.sh("a", COUNT)
    running.lease(host.clock() + 60)
    await grows(bench)
    running.lease(host.clock() + 0.3)
    await stands(bench)
    running.thaw()  # as a daemon would that slept and knows no better
    await stands(bench)
    running.lease(host.clock() + 60)
    running.thaw()
    await grows(bench)
    running.lease(host.clock() + 0.2)
    running.lease(0)
    await trio.sleep(0.4)
    await grows(bench)
    running.lease(host.clock() - 5)
    await stands(bench)
    running.kill("enough")
    with trio.fail_after(20):
        assert (await running.ended()).why == "enough"


async def test_from_the_first_moment(bench: Bench, host):
    launch = replace(bench.launch("a", "sh", "-c", COUNT), lease=host.clock() + 3.0)
    running = await host.start(launch)
    await grows(bench)
    await trio.sleep(3.0)
    await stands(bench)
    running.kill("enough")
    with trio.fail_after(20):
        await running.ended()


async def test_a_keeper_that_stood_still_too(bench: Bench, host):
    """All of the machine stops for longer than the lease."""
    running = await bench.sh("a", COUNT)
    await grows(bench)
    everybody = [running._keeper, *(pid for pid, _, _ in running.pids())]
    running.lease(host.clock() + 0.5)
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    await trio.sleep(1.0)
    before = size(bench)
    for pid in reversed(everybody):  # the keeper last
        os.kill(pid, signal.SIGCONT)
    await stands(bench)
    assert size(bench) == before  # what it wrote until its keeper awoke is not carried
    running.kill("enough")
    with trio.fail_after(20):
        await running.ended()


async def test_an_older_keeper_knows_of_no_lease(bench: Bench, host):
    running = await bench.sh("a", "sleep 60")
    running._leases = False
    with pytest.raises(CloudError, match="older version") as caught:
        running.lease(host.clock() + 9)
    assert caught.value.kind == "unsupported"
    running.kill("enough")
    with trio.fail_after(20):
        await running.ended()
