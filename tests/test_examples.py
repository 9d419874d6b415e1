"""Every example runs, for root and for an ordinary user, and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudfs.fuse.stale import mounts
from tests.persons import Person, Session, open_folder

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.sh"))
FOR_ROOT = {"partition", "move", "move-app", "move-web", "failover", "vm"}  # say so to others


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example(person: Person, script: Path) -> None:
    session = Session(person, open_folder() / "home")
    if script.stem in FOR_ROOT and person.uid != 0:
        assert "only root" in session.run("sh", str(script), status=1).stderr
    else:
        done = session.run("sh", str(script), seconds=400)
        assert "ok: " in done.stdout
    assert not [m for m in mounts() if m.directory.startswith(f"{session.home}/")]
    assert not any(session.home.iterdir())
