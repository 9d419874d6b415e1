"""The deciding half of control groups, over machines that are described."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.node.api import Limits
from cloudfs.node.cgroup import ALWAYS, PERIOD, ROLES, choose, hierarchies, needed, writes

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = """\
31 30 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
32 31 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 31 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
36 31 0:32 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
37 31 0:33 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
"""
V1 = HYBRID.replace("32 31 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n", "")
MEMBER_1 = "5:freezer:/\n4:pids:/user.slice\n3:memory:/user.slice\n2:cpu,cpuacct:/user.slice\n1:name=systemd:/x\n"
MEMBER_2 = "0::/user.slice/session-1.scope\n"


def seen(mountinfo: str, membership: str, controllers: str = "") -> dict[str, tuple[int, str, str]]:
    found = choose(hierarchies(mountinfo, membership, lambda point: controllers))
    return {role: (h.version, h.point, h.own) for role, h in found.items()}


def test_with_version_2_alone_one_group_plays_every_role():
    at = (2, "/sys/fs/cgroup", "/user.slice/session-1.scope")
    assert seen(V2, MEMBER_2, "cpu io memory pids") == dict.fromkeys(ROLES, at)


def test_with_both_version_2_has_what_needs_no_controller_there():
    found = seen(HYBRID, MEMBER_1 + MEMBER_2, "hugetlb")
    assert {role: version for role, (version, _, _) in found.items()} == {
        "whole": 2,
        "time": 2,
        "cpu": 1,
        "mem": 1,
        "pids": 1,
    }
    assert found["cpu"] == (1, "/sys/fs/cgroup/cpu,cpuacct", "/user.slice")


def test_with_version_1_alone_the_freezer_holds_the_whole():
    found = seen(V1, MEMBER_1)
    assert found["whole"][1].endswith("freezer")
    assert found["time"][1].endswith("cpu,cpuacct")
    assert all(version == 1 for version, _, _ in found.values())


def test_version_2_without_controllers_limits_nothing():
    assert set(seen(V2, MEMBER_2)) == set(ALWAYS)


def test_without_control_groups_there_are_no_roles():
    assert seen("22 1 0:20 / / rw - ext4 /dev/vda rw\n", "") == {}


def test_a_container_sees_its_part_as_the_whole():
    mounts = V2.replace(" / /sys", " /docker/abc /sys")
    assert seen(mounts, "0::/docker/abc/inner\n")["whole"] == (2, "/sys/fs/cgroup", "/inner")
    assert seen(mounts, "0::/docker/abc\n")["whole"] == (2, "/sys/fs/cgroup", "")


PLACES_1 = {
    "whole": (2, "/u"),
    "time": (2, "/u"),
    "cpu": (1, "/c"),
    "mem": (1, "/m"),
    "pids": (1, "/p"),
}
PLACES_2 = dict.fromkeys(ROLES, (2, "/g"))


@pytest.mark.parametrize(
    ("limits", "roles"),
    [
        (Limits(), set()),
        (Limits(time=5), set()),
        (Limits(cpu=0.5), {"cpu"}),
        (Limits(mem=1 << 20, pids=3), {"mem", "pids"}),
    ],
)
def test_only_the_groups_that_limits_ask_for_are_needed(limits, roles):
    assert set(needed(PLACES_1, limits)) == set(ALWAYS) | roles


def test_what_is_written():
    limits = Limits(cpu=1.5, mem=1 << 20, pids=10)
    assert writes(PLACES_1, limits) == [
        ("/c/cpu.cfs_period_us", "100000"),
        ("/c/cpu.cfs_quota_us", "150000"),
        ("/m/memory.swappiness", "0"),
        ("/m/memory.limit_in_bytes", "1048576"),
        ("/p/pids.max", "10"),
    ]
    assert writes(PLACES_2, limits) == [
        ("/g/cpu.max", "150000 100000"),
        ("/g/memory.swap.max", "0"),
        ("/g/memory.max", "1048576"),
        ("/g/pids.max", "10"),
    ]


def test_a_limit_that_is_lifted_is_written_as_none():
    assert dict(writes(PLACES_1, Limits()))["/c/cpu.cfs_quota_us"] == "-1"
    assert dict(writes(PLACES_1, Limits()))["/m/memory.limit_in_bytes"] == "-1"
    assert dict(writes(PLACES_2, Limits()))["/g/cpu.max"] == f"max {PERIOD}"
    assert dict(writes(PLACES_2, Limits()))["/g/memory.max"] == "max"


some = st.builds(
    Limits,
    cpu=st.none() | st.floats(0.0001, 1000),
    mem=st.none() | st.integers(1, 1 << 50),
    pids=st.none() | st.integers(1, 1 << 22),
)


@given(some, st.sampled_from([PLACES_1, PLACES_2]))
def test_writes_stay_in_the_groups_and_are_what_the_kernel_takes(limits, places):
    homes = {place for _, place in needed(places, limits).values()}
    for path, text in writes(needed(places, limits), limits):
        assert path.rsplit("/", 1)[0] in homes
        words = text.split()
        assert all(word in ("max", "-1") or int(word) >= 0 for word in words)
        if "cpu.max" in path or "quota" in path:  # the kernel takes no less
            assert words[0] in ("max", "-1") or int(words[0]) >= 1000
