"""Real nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.persons import Person, Session, open_folder


@pytest.fixture
def cloud(person: Person) -> Iterator[Session]:
    """A cloud that is up."""
    session = Session(person, open_folder() / "home")
    session.cloudfs("up")
    yield session
    session.cloudfs("down", "--objects", status=None)
