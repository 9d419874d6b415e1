"""The kernel's table of mounts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudfs.fuse.stale import mounted_at, mounts, parse, state

TABLE = r"""21 27 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw
40 27 0:35 / /cloud rw,nosuid,nodev,relatime shared:21 - fuse.cloudfs cloudfs rw,user_id=0
41 27 0:36 / /mnt/with\040blank\134and\303\244 rw - fuse.cloudfs cloudfs rw
42 27 0:37 / /mnt/other rw - fuse.sshfs me@there:/ rw
43 40 0:38 / /mnt/fake rw - fuse.cloudfs another rw
junk
44 27 0:39 / /short
"""


def test_ours_are_told_from_others() -> None:
    found = parse(TABLE)
    assert [(m.directory, m.device) for m in found if m.ours] == [
        ("/cloud", "0:35"),
        ("/mnt/with blank\\andä", "0:36"),
    ]
    assert len(found) == 5


@given(st.text())
def test_any_table_is_read(text: str) -> None:
    parse(text)


def test_this_machine() -> None:
    assert any(m.directory == "/" for m in mounts())
    root = mounted_at("/")
    assert root is not None
    assert not root.ours
    assert mounted_at("/nowhere/at/all") is None
    assert state("/") == "live"
    assert state("/nowhere/at/all") == "live"  # an error, but no dead mount
