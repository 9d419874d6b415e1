"""Bounded queues against a plain model, and a feed between two tasks."""

import trio
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.fabric.queue import Feed, Queue

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), st.sampled_from("abc")),
        st.tuples(st.just("add"), st.just("")),
        st.tuples(st.just("take"), st.just("")),
    )
)


@given(STEPS, st.integers(1, 4))
def test_against_a_list(steps, most):
    queue, model, lost = Queue(most), [], 0  # model: [name or None, item]
    for turn, (step, name) in enumerate(steps):
        if step == "keep":
            queue.keep(name, turn)
            same = [each for each in model if each[0] == name]
            if same:
                same[0][1] = turn
            else:
                model.append([name, turn])
        elif step == "add":
            queue.add(turn)
            model.append([None, turn])
            told = [each for each in model if each[0] is None]
            if len(told) > most:
                model.remove(told[0])
                lost += 1
        elif model:
            assert queue.take() == model.pop(0)[1]
        assert len(queue) == len(model)
        assert queue.lost == lost
    assert queue.clear() == [item for _, item in model]
    assert len(queue) == 0


async def test_a_feed_wakes_its_reader():
    closed = []
    feed = Feed(closed.append)
    got = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def read():
                got.extend([each async for each in feed])

            nursery.start_soon(read)
            for turn in range(3):
                feed.keep("a", turn)
                await trio.testing.wait_all_tasks_blocked()
            feed.add("told")
            await trio.testing.wait_all_tasks_blocked()
            feed.close()
    assert got == [0, 1, 2, "told"]
    assert closed == [feed]
    with feed:
        pass
    assert closed == [feed]
