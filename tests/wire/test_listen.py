"""Addresses, and sockets that are free, stale, taken or not ours to have."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cloudfs.errors import CloudError
from cloudfs.wire.address import Address, parse
from cloudfs.wire.listen import MAX_PATH, _inet, listen


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/x", Address(path="/run/x")),
        ("/run/x", Address(path="/run/x")),
        ("./x", Address(path="./x")),
        ("unix:x", Address(path="x")),
        ("tcp:host:5640", Address(host="host", port=5640)),
        ("host:5640", Address(host="host", port=5640)),
        ("tcp:host", Address(host="host", port=564)),
        ("tcp:[::1]:99", Address(host="::1", port=99)),
        ("[::1]:99", Address(host="::1", port=99)),
        ("tcp:[::1]", Address(host="::1", port=564)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse(text) == address
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":5640", "tcp:", "unix:", "host:x", "host:70000", "host:-1", "h:٣"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(CloudError, match="is no address"):
        parse(text)


def test_a_unix_socket_is_open_to_all_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = listen(str(path))
    assert path.stat().st_mode & 0o777 == 0o666
    assert str(listener.address) == f"unix:{path}"
    listener.close()
    assert not path.exists()


def test_an_address_that_cannot_be_had_tells_what_to_do() -> None:
    listener = listen("tcp:127.0.0.1:0")
    with pytest.raises(CloudError, match="in use; choose another port"):
        listen(f"tcp:127.0.0.1:{listener.address.port}")
    listener.close()
    family = socket.AF_INET
    with pytest.raises(CloudError, match="write an address of this machine"):
        _inet(parse("192.0.2.1:7"), family, ("192.0.2.1", 7), None)


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    listener = listen(str(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_a_live_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = listen(str(path))
    with pytest.raises(CloudError, match="listens at .* already") as caught:
        listen(str(path))
    assert caught.value.kind == "busy"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_a_socket_that_another_made_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = listen(str(path))
    os.rename(path, tmp_path / "old")
    second = listen(str(path))
    first.close()
    assert path.is_socket()
    second.close()
    assert not path.exists()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(CloudError, match="is no socket"):
        listen(str(path))
    assert path.read_text() == "precious"


def test_paths_that_do_not_work(tmp_path: Path) -> None:
    with pytest.raises(CloudError) as caught:
        listen(str(tmp_path / ("x" * MAX_PATH)))
    assert caught.value.kind == "toolong"
    with pytest.raises(CloudError) as caught:
        listen(str(tmp_path / "no" / "s"))
    assert caught.value.kind == "absent"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "[::]", "example.org", ""])
def test_tcp_is_for_this_machine_only(host: str) -> None:
    with pytest.raises(CloudError) as caught:
        listen(f"tcp:{host}:0")
    assert caught.value.kind == ("refused" if host else "bad")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_tcp_on_the_loopback(host: str) -> None:
    listener = listen(f"tcp:{host}:0")
    assert listener.address.port > 0
    with pytest.raises(CloudError) as caught:
        listen(f"tcp:{host}:{listener.address.port}")
    listener.close()
    assert caught.value.kind == "io"  # address in use
    assert "in use" in caught.value.why
