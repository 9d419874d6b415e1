"""What the command line does without a node: reasons, shell words, ids."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.cli.files import Files, Shell, echo, find_id, last_reason
from cloudfs.errors import CloudError

NOW = 1_700_000_000.5


def stamp(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(when))


class Listing(Files):
    """A tree with these objects."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def list(self, path: str) -> list[str]:
        assert path == "proc"
        return [*self.names, "clone", "help"]

    def stream(self, path: str, offset: int = 0) -> Iterator[bytes]:
        raise AssertionError("nothing is read")


def test_the_last_reason_is_taken_when_it_is_of_this_refusal() -> None:
    text = (
        f"{stamp(NOW - 9)} /proc/x/ctl: old\n{stamp(NOW)} /proc/x/ctl: no verb: dance; see help\n"
    )
    assert last_reason(text, NOW, "/proc/x/ctl") == "no verb: dance; see help"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage\n",
        f"{stamp(NOW - 2)} /proc/x/ctl: older than the write\n",
        f"{stamp(NOW)} /proc/y/ctl: of another file\n",
        f"{stamp(NOW)} no path\n",
    ],
)
def test_other_reasons_are_not_taken(text: str) -> None:
    assert last_reason(text, NOW, "/proc/x/ctl") == ""


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1))
def test_echo_prints_the_line_in_sh(line: str) -> None:
    line = line.replace("\n", " ")
    done = subprocess.run(["sh", "-c", echo(line)], capture_output=True, check=True)
    assert done.stdout == line.encode() + b"\n"


def test_echo_looks_like_what_people_type() -> None:
    assert echo("exec sleep 60") == "echo exec sleep 60"
    assert echo("exec sh -c 'a b'") == "echo \"exec sh -c 'a b'\""


def test_shell_names_keep_the_id_and_quote_the_rest() -> None:
    assert Shell(None, "/cloud").name("proc/$id/ctl") == "/cloud/proc/$id/ctl"
    assert Shell(None, '/my "cloud').name("proc/$id/ctl") == r'"/my \"cloud/proc/$id/ctl"'


def test_an_id_may_be_shortened() -> None:
    tree = Listing("abcd" + "a" * 12, "abce" + "b" * 12, "bbbb" + "c" * 12)
    assert find_id(tree, "b") == "bbbb" + "c" * 12
    assert find_id(tree, "abcd") == "abcd" + "a" * 12
    assert find_id(tree, "z" * 16) == "z" * 16  # whole: nobody is asked


@pytest.mark.parametrize(
    ("given_id", "kind", "words"),
    [
        ("ab", "bad", "2 objects begin with ab"),
        ("q", "absent", "no object's id begins with q"),
        ("../nodes", "bad", "is no object's id"),
        ("", "bad", "is no object's id"),
        ("A", "bad", "is no object's id"),
    ],
)
def test_a_wrong_id_is_refused(given_id: str, kind: str, words: str) -> None:
    with pytest.raises(CloudError) as caught:
        find_id(Listing("abcd" + "a" * 12, "abce" + "b" * 12), given_id)
    assert caught.value.kind == kind
    assert words in caught.value.why
    assert caught.value.fix


def test_a_line_with_a_newline_is_refused_before_anything_is_written() -> None:
    with pytest.raises(CloudError, match="newline"):
        Listing().write("proc/x/ctl", "exec sh -c 'a\nb'")
