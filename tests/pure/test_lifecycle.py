"""The life of an object."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.kernel import lifecycle
from cloudfs.node.api import Exit

EVENTS = sorted({event for _, event in lifecycle.TRANSITIONS})


def end(code=0, real=1.0):
    return Exit(1, code, None if code is not None else 9, 0.0, 0.0, real, 0.0)


@given(st.lists(st.sampled_from(EVENTS)))
def test_every_history_stays_in_the_table(history):
    state = "new"
    for event in history:
        if (state, event) in lifecycle.TRANSITIONS:
            state = lifecycle.after(state, event)
        else:
            with pytest.raises(CloudError):
                lifecycle.after(state, event)
        assert state in lifecycle.STATES


def test_every_state_can_be_reached_and_is_in_the_table():
    reached = {"new", *lifecycle.TRANSITIONS.values()}
    assert reached == set(lifecycle.STATES)


def test_what_lives_can_be_lost_or_end():
    for state in lifecycle.ALIVE:
        assert lifecycle.after(state, "lose") == "lost"
        assert lifecycle.after(state, "ended") == "exited"


def test_a_misfit_names_what_fits():
    with pytest.raises(CloudError, match="it is stopped") as caught:
        lifecycle.after("stopped", "exec")
    assert "start" in caught.value.fix


@pytest.mark.parametrize(
    ("policy", "code", "asked", "again"),
    [
        ("never", 1, False, False),
        ("on-failure", 0, False, False),
        ("on-failure", 1, False, True),
        ("on-failure", None, False, True),
        ("always", 0, False, True),
        ("always", 1, True, False),
        ("on-failure", 1, True, False),
    ],
)
def test_restart(policy, code, asked, again):
    assert (lifecycle.restart_pause(policy, end(code), asked, 0) is not None) is again


def test_pauses_double_up_to_a_minute_and_begin_anew_after_a_calm_run():
    pause, pauses = 0.0, []
    for _ in range(9):
        pause = lifecycle.restart_pause("always", end(), False, pause)
        pauses.append(pause)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert lifecycle.restart_pause("always", end(real=61.0), False, 60) == 1
