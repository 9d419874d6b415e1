"""What a sandboxed program may not ask of the kernel, as an OCI seccomp profile.

Everything is allowed but what has no business in a program that can run anywhere: most
of these need a capability that it lacks anyway, and are refused so that a bug behind
them cannot be reached.  ptrace stays, for debuggers: it sees only the object's own
processes.  A refused call fails with EPERM.
"""

from __future__ import annotations

import errno
import platform
from typing import Any

REFUSED = {
    "mounting and the root": "mount mount_setattr move_mount fsconfig fsmount fsopen fspick "
    "open_tree open_tree_attr pivot_root umount umount2 chroot",
    "files by handle, past the mounts": "open_by_handle_at",
    "other name spaces": "setns",
    "kernel code": "bpf create_module delete_module finit_module init_module kexec_file_load "
    "kexec_load query_module",
    "kernel keys": "add_key keyctl request_key",
    "large surfaces that few use": "io_uring_enter io_uring_register io_uring_setup userfaultfd",
    "looking at others": "fanotify_init kcmp lookup_dcookie perf_event_open syslog",
    "the machine as a whole": "acct quotactl quotactl_fd reboot sethostname setdomainname "
    "swapoff swapon vhangup",
    "its clock": "adjtimex clock_adjtime clock_adjtime64 clock_settime clock_settime64 "
    "settimeofday stime",
    "its ports": "ioperm iopl",
    "calls of the past": "_sysctl nfsservctl uselib vm86 vm86old",
}
CLONE_NEWUSER = 0x10000000
SOCKETS = {"AF_ALG": 38, "AF_VSOCK": 40}  # the kernel's cryptography; the hypervisor
ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}


def profile(machine: str = "") -> dict[str, Any]:
    """The `linux.seccomp` part of an OCI configuration for this kind of processor."""
    names = sorted(name for line in REFUSED.values() for name in line.split())
    refuse = {"action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM}
    # A user name space would give capabilities back, inside it.
    new_user = {
        "index": 0,
        "value": CLONE_NEWUSER,
        "valueTwo": CLONE_NEWUSER,
        "op": "SCMP_CMP_MASKED_EQ",
    }
    calls: list[dict[str, Any]] = [
        {"names": names, **refuse},
        {"names": ["clone", "unshare"], **refuse, "args": [new_user]},
        # Its flags lie in memory, out of a filter's sight; libcs then use clone.
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
    ]
    for number in SOCKETS.values():
        family = {"index": 0, "value": number, "op": "SCMP_CMP_EQ"}
        calls.append({"names": ["socket"], **refuse, "args": [family]})
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ARCHITECTURES.get(machine or platform.machine(), []),
        "syscalls": calls,
    }
