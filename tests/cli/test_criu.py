"""apt's own sources, turned into those of another suite; packages fetched by a fake apt."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudfs.cli import criu
from cloudfs.errors import CloudError

NEW = """\
Types: deb deb-src
# a remark
URIs: http://one.example/debian http://two.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/a.gpg

Types: deb
URIs: http://one.example/security
Suites: bookworm-security
Components: main

Types: deb-src
URIs: http://three.example/debian
Suites: bookworm
Components: main
"""
OLD = """\
# deb http://zero.example/debian bookworm main
deb http://one.example/debian bookworm main contrib
deb [arch=amd64 signed-by=/k.gpg] http://four.example/debian  bookworm  main
deb http://one.example/debian bookworm-updates main
deb http://five.example/debian bookworm contrib
deb-src http://six.example/debian bookworm main
"""


def test_sources_in_the_new_format() -> None:
    assert criu.sources([NEW], "bookworm") == [
        "deb [signed-by=/usr/share/keyrings/a.gpg] http://one.example/debian sid main",
        "deb [signed-by=/usr/share/keyrings/a.gpg] http://two.example/debian sid main",
    ]


def test_sources_in_the_old_format() -> None:
    assert criu.sources([OLD], "bookworm") == [
        "deb http://one.example/debian sid main",
        "deb [arch=amd64 signed-by=/k.gpg] http://four.example/debian sid main",
    ]


def test_no_source_is_made_of_others() -> None:
    assert criu.sources([NEW, OLD], "trixie") == []
    assert criu.sources(["", "\n\n"], "bookworm") == []


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """apt and dpkg that have one package: a criu with a linker that runs scripts."""
    tools = tmp_path / "tools"
    tools.mkdir()
    fake(
        tools,
        "apt-get",
        'for last; do :; done\necho "$*" >>"$LOG"\n[ "$last" = update ] || >criu.deb',
    )
    fake(tools, "apt-cache", "echo criu\necho '  Depends: libc6'\necho '<virtual>'\necho libc6")
    fake(
        tools,
        "dpkg",
        "d=$3/usr; mkdir -p $d/sbin $d/lib/arch $d/lib64; >$d/lib/arch/libc.so.6\n"
        "printf '#!/bin/sh\\nshift 2; exec \"$@\"\\n' >$d/lib64/ld-linux-arch.so.2\n"
        "printf '#!/bin/sh\\necho Version: 9.9 \"$@\"\\n' >$d/sbin/criu\n"
        "chmod +x $d/lib64/ld-linux-arch.so.2 $d/sbin/criu",
    )
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.delenv("CLOUDFS_CRIU", raising=False)
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    source = tmp_path / "debian.sources"
    source.write_text(NEW.replace("bookworm", "here"))
    release = tmp_path / "os-release"
    release.write_text("ID=debian\nVERSION_CODENAME=here\n")
    monkeypatch.setattr(criu, "SOURCES", (tmp_path / "sources.list", tmp_path))
    monkeypatch.setattr(criu, "RELEASE", release)
    return tmp_path


def test_fetch_makes_a_criu_that_starts_with_its_own_linker(packages: Path) -> None:
    state = packages / "state"
    said: list[str] = []
    criu.fetch(state, said.append)
    assert said[-1] == f"criu 9.9 is in {state}/criu"
    assert criu.program(state) == f"{state}/criu/criu"
    assert sorted(p.name for p in state.iterdir()) == ["criu"]  # no work is left
    log = (packages / "log").read_text()
    assert "download criu libc6" in log
    assert "Dir::Etc::sourceparts=/dev/null" in log


def test_fetch_again_replaces_it(packages: Path) -> None:
    criu.fetch(packages / "state", print)
    criu.fetch(packages / "state", print)
    assert criu.program(packages / "state")


def test_a_server_that_does_not_answer_leaves_nothing(packages: Path) -> None:
    fake(packages / "tools", "apt-get", "echo 'E: cannot connect' >&2; exit 100")
    with pytest.raises(CloudError, match="cannot connect"):
        criu.fetch(packages / "state", print)
    assert list((packages / "state").iterdir()) == []


FAILS_TWICE = 'echo x >>"$LOG.tries"; [ $(wc -l <"$LOG.tries") -gt 2 ] || { echo "E: no route" >&2; exit 100; }'


def test_a_server_is_asked_three_times(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu, "PAUSE", 0.0)
    monkeypatch.setattr(criu, "program", lambda state: None)
    monkeypatch.setattr(criu, "try_out", lambda found: "")
    tool = packages / "tools/apt-get"
    works = tool.read_text().removeprefix("#!/bin/sh\n")
    fake(tool.parent, tool.name, f"{FAILS_TWICE}\n{works}")
    said: list[str] = []
    with pytest.raises(CloudError, match="it is not there"):
        criu.ensure(packages / "state", said.append)
    assert len([line for line in said if "no route" in line and "again" in line]) == 2
    assert (packages / "state/criu/criu").exists()
    (packages / "log.tries").unlink()
    fake(tool.parent, tool.name, "echo x >>$LOG.tries; echo 'E: no route' >&2; exit 100")
    with pytest.raises(CloudError, match="no route"):
        criu.ensure(packages / "other", said.append)
    assert (packages / "log.tries").read_text() == "x\n" * 3


def test_other_distributions_are_told_so(packages: Path) -> None:
    (packages / "os-release").write_text("ID=ubuntu\nVERSION_CODENAME=here\n")
    with pytest.raises(CloudError, match="only be fetched on Debian"):
        criu.fetch(packages / "state", print)


def test_a_criu_that_cannot_dump_is_seen(tmp_path: Path) -> None:
    fake(
        tmp_path,
        "criu",
        "for w; do case $p in --images-dir) d=$w;; esac; p=$w; done\n"
        "echo '(00.1) Error (criu/util.c:1): rlimit: no' >$d/dump.log\n"
        "echo '(00.2) Error (criu/vdso.c:2): vdso: Unexpected' >>$d/dump.log\nexit 1",
    )
    assert criu.try_out(str(tmp_path / "criu")) == "dump failed: vdso: Unexpected"


def test_the_one_that_is_named_comes_first(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    criu.fetch(packages / "state", print)
    fake(packages, "mine", "true")
    monkeypatch.setenv("CLOUDFS_CRIU", str(packages / "mine"))
    assert criu.program(packages / "state") == str(packages / "mine")
    monkeypatch.setenv("CLOUDFS_CRIU", str(packages / "none"))
    assert criu.program(packages / "state") == f"{packages}/state/criu/criu"
