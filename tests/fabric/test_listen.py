"""A subscription ends with what its publishers publish, in whatever order it hears of it."""

from hypothesis import given
from hypothesis import strategies as st

from cloudfs.fabric.api import Sample
from cloudfs.fabric.listen import GONE_KEPT, Listener, digest
from cloudfs.fabric.stamp import Stamp


def sample(key, time, node="n1", gone=False):
    return Sample(key, b"" if gone else str(time).encode(), Stamp(time, 0, node), gone)


KEYS = ["a/1", "a/2", "b"]
# What two nodes did: (node, key, whether it was withdrawn); the place is the time.
HISTORIES = st.lists(
    st.tuples(st.sampled_from(["n1", "n2"]), st.sampled_from(KEYS), st.booleans()), max_size=12
)


@given(HISTORIES, st.data())
def test_any_order_and_twice_comes_to_the_same(history, data):
    samples = [sample(key, at, node, gone) for at, (node, key, gone) in enumerate(history, 1)]
    order = data.draw(st.permutations(samples + samples[::2]))
    listener = Listener("a/*", lambda feed: None)
    final = {}
    for each in order:
        listener.hear(each.stamp.node, each)
        for heard in listener.drain():
            assert heard.key not in final or heard.stamp > final[heard.key].stamp
            final[heard.key] = heard
    last = {}
    for each in samples:
        if each.key != "b":
            last[each.key] = each
    seen = {key: each for key, each in final.items() if not each.gone}
    assert seen == {key: each for key, each in last.items() if not each.gone}


@given(HISTORIES, HISTORIES)
def test_after_a_fetch_the_digests_agree(heard, missed):
    """Some of a node's samples came, the others did not; then it says what it publishes."""
    listener = Listener("**", lambda feed: None)
    published = {}
    for at, (_, key, gone) in enumerate([*heard, *missed], 1):
        one = sample(key, at, "n1", gone)
        published.pop(key, None)
        if not gone:
            published[key] = one
        if at <= len(heard):
            listener.hear("n1", one)
    theirs = digest((each.key, each.stamp) for each in published.values())
    if listener.digest("n1") != theirs:
        listener.all_of("n1", list(published.values()), Stamp(1000, 0, "n1"))
    assert listener.digest("n1") == theirs
    assert listener.digest("n2") == digest([])


def test_a_sample_newer_than_the_fetched_list_stays():
    listener = Listener("**", lambda feed: None)
    listener.hear("n1", sample("a/1", 20))
    listener.all_of("n1", [], Stamp(10, 0, "n1"))
    assert [each.gone for each in listener.drain()] == [False]
    listener.all_of("n1", [], Stamp(30, 0, "n1"))
    assert [each.gone for each in listener.drain()] == [True]


def test_withdrawn_keys_are_forgotten_in_time():
    listener = Listener("**", lambda feed: None)
    listener.hear("n1", sample("a/1", 10, gone=True))
    listener.hear("n1", sample("a/1", 5))
    assert listener.drain() == []
    listener.forget(Stamp(20 + GONE_KEPT, 0, "n1"))
    assert listener._have == {}


def test_each_speaks_for_itself_alone_and_its_ends_are_heard_even_of_what_was_not():
    listener = Listener("object/**", lambda feed: None, own=True)
    listener.hear("n2", sample("object/n1/a", 9, "n2", gone=True))
    listener.hear("n1", sample("object/n1/a", 1))
    listener.hear("n1", sample("object/n1/b", 2, gone=True))
    listener.hear("n1", sample("object", 3))
    assert [(one.key, one.gone) for one in listener.drain()] == [
        ("object/n1/a", False),
        ("object/n1/b", True),
    ]
    assert listener.digest("n2") == digest([])
