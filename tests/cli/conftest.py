"""A cloud that is up, one for each kind of person, for all tests that do not stop it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.persons import Person, Session, open_folder


@pytest.fixture(scope="session")
def cloud(person: Person) -> Iterator[Session]:
    session = Session(person, open_folder() / "home")
    session.cloudfs("up")
    yield session
    session.cloudfs("down", "--objects")


@pytest.fixture
def own(person: Person) -> Iterator[Session]:
    """A person whose cloud is not up yet; it is down after the test."""
    session = Session(person, open_folder() / "home")
    yield session
    session.cloudfs("down", "--objects", status=None)
