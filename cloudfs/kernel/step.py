"""Named steps of an exchange between nodes, at each of which a test can hold a daemon."""

from __future__ import annotations

import os
import signal

HELD = "CLOUDFS_TEST_STEPS"  # a directory; unset, as it is but in tests, no step does anything


def reached(node: str, step: str) -> None:
    """This node's daemon is about to go on past a step.  If a test has put a file NODE.STEP
    into the directory, the file goes and the whole process stops (SIGSTOP), until the test
    lets it go on, or kills it just there."""
    place = os.environ.get(HELD)
    if not place:
        return
    try:
        os.unlink(os.path.join(place, f"{node}.{step}"))
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGSTOP)
