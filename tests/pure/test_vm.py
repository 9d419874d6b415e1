"""What `exec` may say of a virtual machine, QEMU's command line for it, and what files are."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.node import vm
from cloudfs.node.api import Limits
from cloudfs.node.vm import MIB, Shape

PLAIN = Shape("pc-q35-7.2", "tcg", 128, 1, True, True, "console=ttyS0", 0, "", "", False)
DISK = dataclasses.replace(PLAIN, disk=1 << 20, format="raw", base="/srv/disk", share=True)


def test_the_words_of_exec():
    found = vm.wanted(["kernel=/k", "initrd=/i", "append=root=/dev/vda quiet", "disk=/d"])
    assert found == vm.Wanted("/k", "/i", "root=/dev/vda quiet", "/d")
    assert vm.wanted(["kernel=/k"]).append == "console=ttyS0"
    assert vm.wanted(["disk=/d"]) == vm.Wanted(disk="/d")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "needs a kernel or a disk"),
        (["sh", "-c", "date"], "says nothing of a virtual machine"),
        (["kernal=/k"], "says nothing of a virtual machine"),
        (["kernel="], "kernel= is empty"),
        (["kernel=/k", "kernel=/l"], "twice"),
        (["disk=/d", "initrd=/i"], "go with kernel="),
        (["disk=/d", "append=quiet"], "go with kernel="),
        (["kernel=/k", 'append="quiet'], "double quote"),
        (["kernel=/k", "append=" + "x" * 3000], "at most"),
        (["kernel=/k", "append=a\x1bb"], "one line"),
    ],
)
def test_words_that_are_refused(words, said):
    with pytest.raises(CloudError, match=said) as error:
        vm.wanted(words)
    assert error.value.kind == "bad"


def test_qemu_has_nothing_that_it_was_not_given():
    words = vm.arguments("qemu", "id", PLAIN, ["qmp", "kernel", "initrd"], "")
    line = " ".join(words)
    for part in ("-nodefaults", "-nic none", "-sandbox on", "-display none", "spawn=deny"):
        assert part in line
    assert "-fsdev" not in line
    assert "-blockdev" not in line
    assert words[words.index("-kernel") + 1] == "/proc/self/fd/4"
    assert words[words.index("-initrd") + 1] == "/proc/self/fd/5"
    assert words[words.index("-m") + 1] == "128"
    assert words[words.index("-append") + 1] == "console=ttyS0"


def test_a_disk_and_a_share():
    names = ["qmp", "kernel", "initrd", "disk", "base", "incoming"]
    words = vm.arguments("qemu", "id", DISK, names, "/a,b")
    tree = json.loads(words[words.index("-blockdev") + 1])
    assert tree["backing"]["read-only"] is True
    assert "read-only" not in tree["file"]
    assert "fd=7,set=1" in words  # the base
    assert "fd=6,set=2" in words
    assert "local,id=share,path=/a,,b,security_model=none" in words
    assert words[-2:] == ["-incoming", "fd:8"]
    form = dataclasses.replace(DISK, format="qcow2")
    words = vm.arguments("qemu", "id", form, names, "/x")
    assert json.loads(words[words.index("-blockdev") + 1])["backing"]["backing"] is None


def test_limits():
    assert vm.memory(Limits()) == 256
    assert vm.memory(Limits(mem=128 * MIB + 5)) == 128
    assert [vm.processors(Limits(cpu=n), 4) for n in (None, 0.5, 2, 2.5, 9)] == [1, 1, 2, 3, 4]
    around = vm.around(Limits(cpu=0.5, mem=128 * MIB, time=9))
    assert around == Limits(cpu=0.5, mem=128 * MIB + vm.OVERHEAD, time=9)
    assert vm.around(Limits()).mem is None
    vm.check_limits(Limits(cpu=1, mem=128 * MIB), 128)
    for limits in (Limits(mem=256 * MIB), Limits(pids=4)):
        with pytest.raises(CloudError) as error:
            vm.check_limits(limits, 128)
        assert error.value.kind == "unsupported"


def test_a_shape_reads_back():
    for shape in (PLAIN, DISK):
        assert vm.read_shape(shape.text()) == shape


@pytest.mark.parametrize(
    "change",
    [
        {"machine": "pc-q35-7.2,x=y"},
        {"machine": 3},
        {"accel": "xen"},
        {"mem": 0},
        {"mem": True},
        {"cpus": 1000},
        {"append": "a\nb"},
        {"kernel": False},
        {"disk": 512},
        {"disk": 512, "format": "vmdk", "base": "/d"},
        {"disk": 512, "format": "raw", "base": "d"},
        {"disk": 513, "format": "raw", "base": "/d"},
        {"base": "/etc/shadow"},
        {"more": 1},
    ],
)
def test_a_shape_of_another_node_is_looked_at(change):
    text = json.dumps(json.loads(PLAIN.text()) | change)
    with pytest.raises(CloudError) as error:
        vm.read_shape(text)
    assert error.value.kind == "bad"


@given(st.text(max_size=200))
def test_any_text_is_a_shape_or_bad(text):
    with pytest.raises(CloudError):
        vm.read_shape(text)


def test_kernels_and_first_file_systems():
    packed = bytearray(1024)
    packed[0x202:0x206] = b"HdrS"
    vm.check_kernel("k", bytes(packed))
    vm.check_kernel("k", b"\x7fELF")
    vm.check_initrd("i", b"\x1f\x8b\x08")
    vm.check_initrd("i", b"070701")
    for check in (vm.check_kernel, vm.check_initrd):
        for head in (b"", b"#!/bin/sh\n", bytes(1024)):
            with pytest.raises(CloudError) as error:
                check("f", head)
            assert error.value.kind == "notexec"


@given(st.integers(1, 1 << 33))
def test_an_overlay_is_one(sectors):
    made = vm.overlay(sectors * 512)
    vm.check_overlay(made[:1024], sectors * 512)
    with pytest.raises(CloudError):
        vm.check_overlay(made[:1024], sectors * 512 + 512)


def test_disks():
    assert vm.check_disk("d", bytes(1024), 4096) == ("raw", 4096)
    assert vm.check_disk("d", vm.overlay(1 << 30)[:1024], 9) == ("qcow2", 1 << 30)
    backed, spread = bytearray(vm.overlay(512)), bytearray(vm.overlay(512))
    backed[8:16] = (104).to_bytes(8, "big")
    spread[72:80] = (4).to_bytes(8, "big")
    for head, size in ((bytes(9), 0), (bytes(9), 513), (bytes(backed), 9), (bytes(spread), 9)):
        with pytest.raises(CloudError) as error:
            vm.check_disk("d", head, size)
        assert error.value.kind == "bad"
