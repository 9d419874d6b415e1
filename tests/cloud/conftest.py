"""Real nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.cloud.net import Net, can
from tests.persons import Person, Session, open_folder

# Machines of their own are root's to make.
OF_NETS = ("net", "links", "membership", "partition", "far", "place")
collect_ignore = [] if can() else [f"test_{name}.py" for name in OF_NETS]


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
