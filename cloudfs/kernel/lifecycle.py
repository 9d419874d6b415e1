"""The life of an object: its states, and what takes it from one to the next.

This table is all there is to it; `docs/` and `/cloud/proc/help` print it.
"""

from __future__ import annotations

import signal as signals

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.node.api import Exit

STATES = {
    "new": "made by clone; verbs set it up; goes if exec does not come",
    "placing": "a node is sought for it, or asked to take it",
    "starting": "its program is being started",
    "running": "its program runs",
    "stopped": "every process of it is frozen until start",
    "fenced": "it is frozen, as another node may restart it; goes on once that is known not to be",
    "checkpointing": "it is frozen for a moment, and an image of it is written",
    "moving": "it is frozen, or about to be, and another node takes it over",
    "restoring": "what an image holds is made to go on",
    "exited": "its processes are gone; files tell how; start runs it again",
    "lost": "it ran, or another node was told to run it, and nothing tells more",
}

# (state, event): next state
TRANSITIONS = {
    ("new", "exec"): "starting",
    ("new", "place"): "placing",
    ("placing", "exec"): "starting",
    ("placing", "refused"): "new",
    ("placing", "lose"): "lost",
    ("lost", "refused"): "new",
    ("exited", "start"): "starting",
    ("lost", "start"): "starting",
    ("starting", "began"): "running",
    ("starting", "failed"): "new",
    ("starting", "failed-again"): "exited",
    ("starting", "ended"): "exited",
    ("running", "stop"): "stopped",
    ("stopped", "start"): "running",
    ("running", "ended"): "exited",
    ("stopped", "ended"): "exited",
    ("running", "checkpoint"): "checkpointing",
    ("running", "move"): "moving",
    ("checkpointing", "stay"): "running",
    ("checkpointing", "fence"): "fenced",
    ("running", "fence"): "fenced",
    ("fenced", "unfence"): "running",
    ("fenced", "ended"): "exited",
    ("fenced", "lose"): "lost",
    ("moving", "stay"): "running",
    ("moving", "lose"): "lost",
    ("lost", "stay"): "running",
    ("new", "restore"): "restoring",
    ("exited", "restore"): "restoring",
    ("lost", "restore"): "restoring",
    ("restoring", "began"): "running",
    ("restoring", "failed-again"): "exited",
    ("checkpointing", "ended"): "exited",
    ("moving", "ended"): "exited",
    ("restoring", "ended"): "exited",
    ("checkpointing", "lose"): "lost",
    ("restoring", "lose"): "lost",
    ("starting", "lose"): "lost",
    ("running", "lose"): "lost",
    ("stopped", "lose"): "lost",
}

ALIVE = frozenset(
    {"starting", "running", "stopped", "fenced", "checkpointing", "moving", "restoring"}
)
OVER = frozenset({"exited", "lost", "gone"})  # gone: wiped or elsewhere, in no table here

# It runs soon, here or elsewhere, or ends: what a running one takes waits for that.
PASSING = frozenset({"placing", "starting", "moving", "checkpointing", "restoring"})

RESTARTS = {
    "never": "it stays ended",
    "on-failure": "it is started again when its code is not 0, or a signal ended it",
    "always": "it is started again whenever it ends by itself",
}
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0  # seconds before a restart; doubles, as in systemd
CALM = 60.0  # seconds of running after which the pause begins anew


def after(state: str, event: str) -> str:
    """The state that follows; CloudError("busy") where the event does not fit the state."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        can = sorted(verb for at, verb in TRANSITIONS if at == state)
        hint = ", ".join(verb for verb in can if verb in ("exec", "start", "stop"))
        raise CloudError(
            "busy", f"it is {state}, so {event} does nothing", f"what fits: {hint}" if hint else ""
        ) from None


def signal_name(number: int | None) -> str:
    """KILL for 9; "" for none."""
    try:
        return signals.Signals(number).name[3:] if number else ""
    except ValueError:
        return str(number)


def ended_how(end: Exit | None) -> str:
    """The exit code, or the name of the signal, or ""."""
    if end is None:
        return ""
    return signal_name(end.signal) or ndb.show(end.code)


def restart_pause(policy: str, end: Exit, asked: bool, pause: float) -> float | None:
    """Seconds until it is started again, or None for never.

    asked: somebody killed it on purpose, which no policy undoes.  pause: the last one,
    0 at first.
    """
    failed = end.code != 0
    if asked or policy == "never" or (policy == "on-failure" and not failed):
        return None
    if end.real >= CALM or pause == 0:
        return FIRST_PAUSE
    return min(LAST_PAUSE, pause * 2)
