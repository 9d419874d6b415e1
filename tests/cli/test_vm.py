"""A virtual machine on a node of one's own, also without root."""

from __future__ import annotations

import time

from cloudfs import ndb
from tests import vmimage
from tests.persons import Session

BOOT = 180.0  # seconds on a computer that others keep busy


def test_it_boots_does_what_is_typed_and_powers_off(cloud: Session) -> None:
    words = vmimage.words()
    id = cloud.cloudfs("run", "--runtime", "vm", *words).stdout.strip()
    try:
        end = time.monotonic() + BOOT
        while "ready\n" not in (said := cloud.sh(f"cat $CLOUDFS_MOUNT/proc/{id}/stdout")):
            assert time.monotonic() < end, said
            time.sleep(0.1)
        status = ndb.parse(cloud.sh(f"cat $CLOUDFS_MOUNT/proc/{id}/status"))
        assert (status["runtime"], status["state"]) == ("vm", "running")
        cloud.sh(f"echo 'echo $((6 * 7)); exit' >$CLOUDFS_MOUNT/proc/{id}/stdin")
        cloud.cloudfs("wait", id, seconds=BOOT)
        assert cloud.sh(f"cat $CLOUDFS_MOUNT/proc/{id}/stdout").splitlines()[:2] == ["ready", "42"]
    finally:
        cloud.cloudfs("kill", id, status=None)


def test_what_is_wrong_is_told(cloud: Session) -> None:
    done = cloud.cloudfs("run", "--runtime", "vm", "kernel=/etc/passwd", status=1)
    assert "/etc/passwd is no Linux kernel" in done.stderr
    done = cloud.cloudfs("run", "--runtime", "vm", "sleep", "60", status=1)
    assert "says nothing of a virtual machine" in done.stderr
    if cloud.person.uid != 0:
        done = cloud.cloudfs("run", "--runtime", "vm", "kernel=/etc/shadow", status=1)
        assert "permission denied" in done.stderr
