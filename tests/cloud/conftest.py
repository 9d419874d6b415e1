"""Real nodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cloud.net import Net, can
from tests.persons import Person, Session, open_folder

# Machines of their own are root's to make.
OF_NETS = (
    *("net", "links", "membership", "partition", "far", "place", "cost", "query", "wan"),
    *("names", "people", "promises_nodes", "survive", "acting", "groups", "balance"),
    *("move", "move_faults", "move_kinds", "move_refused", "vm"),
)
collect_ignore = [] if can() else [f"test_{name}.py" for name in OF_NETS]


# What takes longest is run where it is asked for: each of these has a shorter sister that is
# always run.
LONG = (
    *("across the clusters", "in three", "a cluster and each for itself", "both ways"),
    *("way-way1", "way-way2", "flaps", "one_restart_after_another", "clocks_may_differ"),
    *("thirty_at_once", "half_of_all", "finds_the_cloud_later", "newcomer", "half cut"),
    *("10.77.9.9", "short_stop", "its_delegates_die", "whatever_fails_meanwhile[1]"),
    *("whatever_fails_meanwhile[2]", "cut_off_and_starts_again", "into_another"),
    *("over two clusters", "name_is_free"),
    *("both_sides_of_a_cut", "all_had[process-brought", "all_had[sandbox-brought"),
    "its_place[process",
    *("bandwidths_of_all_links", "latencies_of_a_matrix"),
    *("agree_afterwards[one alone", "lost_and_come_back[freeze", "its_deadline[kill"),
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("CLOUDFS_TEST_LONG"):
        return
    here = Path(__file__).parent
    long = [i for i in items if i.path.parent == here and any(w in i.name for w in LONG)]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in set(long)]


@pytest.fixture
def cloud(person: Person) -> Iterator[Session]:
    """A cloud that is up."""
    session = Session(person, open_folder() / "home")
    session.cloudfs("up")
    yield session
    session.cloudfs("down", "--objects", status=None)


@pytest.fixture
def make_net() -> Iterator[Callable[..., Net]]:
    """Net(…), which goes after the test."""
    with ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(Net(*args, **more))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A test that fails while a net is up shows what its daemons wrote."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call" and report.failed:
        for net in Net.open:
            report.sections.append(("daemons of the net", net.logs()))
