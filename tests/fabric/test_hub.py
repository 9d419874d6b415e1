"""A hub keeps what others keep, whatever happens to the frames on their way."""

from contextlib import suppress
from functools import partial

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from cloudfs.errors import CloudError
from cloudfs.fabric.hub import Hub, unframe

STEPS = st.lists(
    st.tuples(st.sampled_from(["publish", "publish", "withdraw", "tell"]), st.sampled_from("abc")),
    max_size=20,
)


def held(hub, node="n1"):
    return {key: sample.value for key, sample in hub._held.get(node, {}).items()}


def say(hub, steps):
    """Frames of the steps, and what is kept in the end."""
    frames, kept = [], {}
    for number, (what, key) in enumerate(steps):
        value = b"%d" % number
        if what == "publish":
            frames.append(hub.publish(key, value)[1])
            kept[key] = value
        elif what == "tell":
            frames.append(hub.tell(key, value))
        else:
            frames.append(hub.withdraw(key))
            kept.pop(key, None)
    return [one for one in frames if one], kept


@given(STEPS, st.data())
@settings(max_examples=300, deadline=None)
def test_frames_lost_doubled_and_shuffled_are_repaired(steps, data):
    one, two = Hub("n1"), Hub("n2")
    frames, kept = say(one, steps)
    some = data.draw(st.lists(st.sampled_from(frames), max_size=40)) if frames else []
    for frame in some:
        two.heard(frame)
    missed = two.heard(one.digest())
    assert missed in (None, "n1")
    if held(two) != kept:
        assert missed == "n1"
        assert two.fetched("n1", one.everything())
    assert held(two) == kept
    assert two.heard(one.digest()) is None


@given(STEPS, STEPS, st.data())
@settings(max_examples=200, deadline=None)
def test_a_late_fetch_brings_nothing_back(before, after, data):
    """A fetch made at one time comes in after frames of a later time."""
    one, two = Hub("n1"), Hub("n2")
    first, _ = say(one, before)
    snapshot = one.everything()
    second, _ = say(one, after)
    kept = {key: sample.value for key, sample in one._own.items()}
    for frame in first + second:
        two.heard(frame)
    assert held(two) == kept
    two.fetched("n1", snapshot)
    assert held(two) == kept


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_a_subscriber_ends_with_what_is_kept(steps):
    one, two = Hub("n1"), Hub("n2")
    frames, kept = say(one, steps)
    subscription = two.subscribe("**")
    for frame in frames:
        two.heard(frame)
    now = {}
    for sample in subscription._newest.values():
        if sample.gone:
            now.pop(sample.key, None)
        else:
            now[sample.key] = sample.value
    assert now == kept


@given(st.binary(max_size=80))
def test_nonsense_is_refused(data):
    """No error but ours, and nothing of it is kept unless it is a frame."""
    hub = Hub("n2")
    for take in (hub.heard, partial(hub.fetched, "n1")):
        with suppress(CloudError):
            take(data)


def test_a_cut_frame_is_refused():
    whole = Hub("n1").publish("some/key", b"")[1]
    for size in range(len(whole)):
        with pytest.raises(CloudError):
            unframe(whole[:size])


def test_nobody_speaks_for_this_node():
    one, fake = Hub("n1"), Hub("n1")
    one.heard(fake.publish("a", b"forged")[1])
    one.fetched("n1", fake.everything())
    assert held(one) == {}
