"""bind, unmount, ns, mount and shell: name spaces by mounts."""

from __future__ import annotations

from tests.persons import Session


def test_bind_and_unmount_change_what_the_mount_shows(cloud: Session) -> None:
    root = cloud.mount
    cloud.cloudfs("bind", f"{root}/view/by-user", f"{root}/nodes")
    assert cloud.cloudfs("ns").stdout == "bind /cloud/view/by-user /cloud/nodes\n"
    assert cloud.sh(f"ls {root}/nodes") == cloud.sh(f"ls {root}/view/by-user")
    cloud.cloudfs("bind", "-a", "/cloud/view", "/cloud/nodes")  # the tree's own names do too
    assert "by-app" in cloud.sh(f"ls {root}/nodes").split()
    cloud.cloudfs("unmount", f"{root}/view", f"{root}/nodes")
    assert "by-app" not in cloud.sh(f"ls {root}/nodes").split()
    cloud.cloudfs("unmount", f"{root}/nodes")
    assert cloud.cloudfs("ns").stdout == ""


def test_wrong_binds_are_refused(cloud: Session) -> None:
    done = cloud.cloudfs("bind", f"{cloud.mount}/none", f"{cloud.mount}/proc", status=1)
    assert "none" in done.stderr
    done = cloud.cloudfs("unmount", f"{cloud.mount}/proc", status=1)
    assert "nothing like that is bound" in done.stderr
    done = cloud.cloudfs("bind", "-a", "-b", "/cloud/view", "/cloud/nodes", status=2)
    assert "before or after" in done.stderr
    assert cloud.cloudfs("ns").stdout == ""


def test_a_second_mount_is_a_session_of_its_own(cloud: Session) -> None:
    second = cloud.home / "second"
    cloud.run("mkdir", str(second))
    cloud.cloudfs("mount", str(second))
    assert "proc" in cloud.sh(f"ls {second}").split()
    cloud.cloudfs("bind", f"{second}/view", f"{second}/nodes")
    assert "by-app" in cloud.sh(f"ls {second}/nodes").split()
    assert "by-app" not in cloud.sh(f"ls {cloud.mount}/nodes").split()
    id = cloud.sh(
        f"id=$(cat {second}/proc/clone); echo exec sleep 600 > {second}/proc/$id/ctl; echo $id"
    ).strip()
    assert "state=running" in cloud.cloudfs("status", id).stdout
    cloud.sh(f"echo kill > {second}/proc/{id}/ctl")
    cloud.cloudfs("unmount", str(second))
    assert cloud.sh(f"ls {second}") == ""
    assert "state=exited" in cloud.cloudfs("status", id).stdout


def test_a_mount_that_cannot_be_says_why(cloud: Session) -> None:
    done = cloud.cloudfs("mount", f"{cloud.home}/third", status=1)
    assert f"mkdir -p {cloud.home}/third" in done.stderr
    cloud.run("mkdir", f"{cloud.home}/third")
    done = cloud.cloudfs("mount", "unix:/nowhere/sock", f"{cloud.home}/third", status=1)
    assert "/nowhere/sock" in done.stderr
    done = cloud.cloudfs("unmount", f"{cloud.home}/third", status=1)
    assert done.stderr.count("\n") == 1


def test_a_shell_has_a_name_space_of_its_own(cloud: Session) -> None:
    root = cloud.mount
    cloud.cloudfs("bind", f"{root}/view", f"{root}/nodes")
    done = cloud.cloudfs(
        "shell",
        "-c",
        "cloudfs ns; cloudfs bind /cloud/view/by-user /cloud/nodes; cloudfs ns;"
        f" ls {root}/nodes; cloudfs run --wait echo inside; exit 4",
        status=4,
    )
    first, *rest = done.stdout.splitlines()
    assert first == "bind /cloud/view /cloud/nodes"  # that of where it was started
    assert "bind /cloud/view/by-user /cloud/nodes" in rest
    assert rest[-1] == "inside"
    assert cloud.cloudfs("ns").stdout == "bind /cloud/view /cloud/nodes\n"  # unchanged outside
    cloud.cloudfs("unmount", f"{root}/nodes")
    assert not list(cloud.home.glob("cloudfs-shell-*"))
    assert "cloudfs-shell" not in cloud.sh("cat /proc/self/mountinfo")


def test_a_shell_ends_by_a_signal_as_any_does(cloud: Session) -> None:
    cloud.cloudfs("shell", "-c", "kill -KILL $$", status=128 + 9)


def test_a_shell_that_is_not_there_is_refused(cloud: Session) -> None:
    cloud.env["SHELL"] = "/no/such/shell"
    try:
        assert "/no/such/shell" in cloud.cloudfs("shell", "-c", "true", status=1).stderr
    finally:
        del cloud.env["SHELL"]
