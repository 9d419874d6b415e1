"""help, version, and the manual pages, all from the same tables."""

from __future__ import annotations

import pytest

from cloudfs.cli import TABLE
from cloudfs.cli.manual import TREE, page
from tests.persons import Session

pytestmark = pytest.mark.one_person


def test_help_of_commands_and_directories(cloud: Session) -> None:
    assert "Commands:" in cloud.cloudfs("help").stdout
    assert cloud.cloudfs("help", "run").stdout == cloud.cloudfs("run", "--help").stdout
    assert "cloudfs 9p cat" in cloud.cloudfs("help", "9p").stdout
    assert cloud.cloudfs("help", "proc").stdout == cloud.sh("cat $CLOUDFS_MOUNT/proc/help")
    assert cloud.cloudfs("help", "/cloud").stdout == cloud.sh("cat $CLOUDFS_MOUNT/help")
    for topic in TREE:
        assert len(cloud.cloudfs("help", topic).stdout) > 50
    assert "exec CMD ARG" in cloud.cloudfs("help", "object").stdout
    assert "price N" in cloud.cloudfs("help", "node").stdout
    for wrong in ("nowhere", "ctl", "proc/nowhere"):
        done = cloud.cloudfs("help", wrong, status=1)
        assert f"no manual of {wrong}" in done.stderr
        assert "object" in done.stderr


def test_version_tells_of_the_node_too(cloud: Session, own: Session) -> None:
    first, second = cloud.cloudfs("version").stdout.splitlines()
    assert second == f"node: {first}"
    assert "type: cloudfs up" in own.cloudfs("version").stdout


def test_every_command_and_directory_gets_a_page(cloud: Session) -> None:
    folder = cloud.home / "man"
    cloud.cloudfs("help", "--man", str(folder))
    wanted = {
        "cloudfs.1",
        *(f"cloudfs-{name}.1" for name in TABLE),
        *(f"cloudfs-{topic}.4" for topic in TREE),
    }
    assert {path.name for path in folder.iterdir()} == wanted
    for path in folder.iterdir():
        title, *rest = path.read_text().splitlines()
        assert title.startswith(f".TH {path.stem.upper()} {path.suffix[1:]} ")
        assert {line for line in rest if line.startswith((".", "'"))} == {
            ".SH NAME", ".SH DESCRIPTION", ".nf", ".fi",
        }  # fmt: skip
    assert "exec CMD ARG" in (folder / "cloudfs-object.4").read_text()


def test_text_cannot_become_a_command_of_roff() -> None:
    text = page("x", "1", "a line", ".so /etc/passwd\n'quote\nback\\slash")
    assert "\\&.so /etc/passwd\n\\&'quote\nback\\eslash" in text


def test_output_that_is_no_longer_kept_is_told(own: Session) -> None:
    own.env["CLOUDFS_MAX_STDIO"] = "100000"
    own.cloudfs("up")
    id = own.cloudfs("run", "sh", "-c", "yes abcdefg | head -c 1000000").stdout.strip()
    own.cloudfs("wait", id)
    for args in (("logs", id), ("logs", "-f", id)):
        done = own.cloudfs(*args)
        assert "bytes are no longer kept" in done.stderr
        assert done.stderr.count("\n") == 1
        assert 50_000 <= len(done.stdout) <= 200_000
        assert "\0" not in done.stdout
        assert done.stdout.endswith("abcdefg\n")
