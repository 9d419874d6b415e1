"""What the machine says of itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.node.metrics import STATES, Metrics, fractions

readings = st.fixed_dictionaries({name: st.floats(0, 1e9) for name in STATES})


@given(readings, readings)
def test_fractions_are_shares_of_one(before, now):
    shares = fractions(before, now)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(0 <= share <= 1 for share in shares.values())


def test_fractions_of_a_known_time():
    before = dict.fromkeys(STATES, 10.0)
    assert fractions(before, before)["idle"] == 1
    now = before | {"user": 13.0, "idle": 11.0}
    assert fractions(before, now) == dict.fromkeys(STATES, 0.0) | {"user": 0.75, "idle": 0.25}


def test_values_are_those_of_this_machine(tmp_path: Path):
    metrics = Metrics(tmp_path)
    metrics.tick()
    assert metrics.arch == os.uname().machine
    assert metrics.os["kernel"] == os.uname().release
    assert metrics.cpus == len(os.sched_getaffinity(0))
    assert len(metrics.load()) == 3
    memory = metrics.mem()
    assert 0 < memory["free"] <= memory["total"]
    assert 0 < memory["available"] <= memory["total"]
    assert "lo" in [one["name"] for one in metrics.net()]
    device = os.stat(tmp_path).st_dev
    assert [d for d in metrics.disk() if os.stat(d["path"]).st_dev == device and d["total"] > 0]
    assert metrics.uptime() >= float(Path("/proc/uptime").read_text().split()[0]) - 5
    flat = metrics.attributes()
    assert flat["arch"] == metrics.arch
    assert 0 <= flat["cpu.idle"] <= metrics.cpus


async def test_readings_are_taken_each_tick(tmp_path: Path, autojump_clock, monkeypatch):
    import trio

    metrics = Metrics(tmp_path)
    taken = []
    monkeypatch.setattr(metrics, "tick", lambda: taken.append(trio.current_time()))
    with trio.move_on_after(21):
        await metrics.run()
    assert [round(at) for at in taken] == [0, 5, 10, 15, 20]
