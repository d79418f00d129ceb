"""config.md: root, mounts, process, user, limits, names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.host.conformance.clauses import clause
from tests.host.conformance.conftest import Change, Document, Runtime
from tests.host.conformance.terminals import Console, read_terminal

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


def process(**more: Any) -> Change:
    """Set members of `process`."""
    return lambda document: document["process"].update(more)


def mount(destination: str, kind: str, source: str, *options: str, **more: Any) -> Change:
    """Add a mount."""
    added = {"destination": destination, "type": kind, "source": source,
             "options": list(options), **more}  # fmt: skip
    return lambda document: document["mounts"].append(added)


@clause("config.md, Specification version", "a version that is not supported is refused")
def test_version(runtime: Runtime) -> None:
    """Of another major version, or none at all."""
    runtime.refuses(lambda document: document.update(ociVersion="99.0.0"))


@clause("config.md, Extensibility", "properties that are not known are ignored")
def test_unknown_properties(runtime: Runtime) -> None:
    """Wherever they stand."""

    def add(document: Document) -> None:
        document["org.example"] = document["process"]["x"] = document["linux"]["y"] = {"a": [1]}

    assert runtime.sh("echo on", add) == ["on"]


@clause("config.md, root.path", "a directory must be there")
def test_root_must_exist(runtime: Runtime) -> None:
    """Else it is an error."""
    runtime.refuses(lambda document: document["root"].update(path="/no/such/root"))


@clause("config.md, root.readonly", "the root is read-only inside; mounts are not")
def test_read_only_root(runtime: Runtime) -> None:
    """A tmpfs takes files, the root none."""

    def change(document: Document) -> None:
        document["root"]["readonly"] = True
        mount("/mnt", "tmpfs", "tmpfs")(document)

    assert runtime.sh("touch /x 2>&1; touch /mnt/x && echo ok", change)[-1] == "ok"
    assert not (runtime.rootfs / "x").exists()


@clause("config.md, mounts", "mounted in the order in which they stand")
def test_mount_order(runtime: Runtime) -> None:
    """A later mount hides an earlier one below the same place."""

    def change(document: Document) -> None:
        mount("/mnt", "tmpfs", "first")(document)
        mount("/mnt", "tmpfs", "second")(document)
        mount("/mnt/inner", "tmpfs", "third")(document)

    lines = runtime.sh("grep -E ' /mnt' /proc/mounts", change)
    assert [line.split()[0] for line in lines] == ["first", "second", "third"]


@clause("config.md, mounts", "options of mount(8), the file system's own among them")
def test_mount_options(runtime: Runtime) -> None:
    """Size and mode are tmpfs's, the others every mount's."""
    words = ("ro", "nosuid", "nodev", "noexec", "noatime", "size=64k", "mode=700")
    line = runtime.sh("grep ' /mnt ' /proc/mounts", mount("/mnt", "tmpfs", "tmpfs", *words))[0]
    assert set(words) <= set(line.split()[3].split(","))


@clause("config.md, mounts", "a directory or a file of the host is bound with bind")
def test_bind_mounts(runtime: Runtime, tmp_path: Path) -> None:
    """Both, the file read-only."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory/file").write_text("inside\n")
    (tmp_path / "single").write_text("single\n")

    def change(document: Document) -> None:
        mount("/mnt", "bind", str(tmp_path / "directory"), "rbind", "rw")(document)
        mount("/tmp/one", "bind", str(tmp_path / "single"), "bind", "ro")(document)

    lines = runtime.sh("cat /mnt/file /tmp/one; (: > /tmp/one) 2>/dev/null || echo ro", change)
    assert lines == ["inside", "single", "ro"]


@clause("config.md, mounts", "rro makes what lies below read-only as well")
def test_recursive_read_only(runtime: Runtime, tmp_path: Path) -> None:
    """A tmpfs under the source is read-only, too."""
    (tmp_path / "inner").mkdir()

    def change(document: Document) -> None:
        mount("/mnt", "tmpfs", "tmpfs")(document)
        mount("/tmp", "none", "/dev", "rbind", "rro")(document)

    lines = runtime.sh("grep -E ' /tmp(/| )' /proc/mounts | cut -d' ' -f4", change)
    assert len(lines) > 1
    assert all(line.split(",")[0] == "ro" for line in lines)


@clause("config.md, mounts", "tmpcopyup: a tmpfs begins with what the image has there")
def test_copy_up(runtime: Runtime) -> None:
    """Files come along, changes stay in the tmpfs."""
    change = mount("/hidden", "tmpfs", "tmpfs", "tmpcopyup")
    assert runtime.sh("cat /hidden/file; echo new > /hidden/file", change) == ["visible"]
    assert (runtime.rootfs / "hidden/file").read_text() == "visible\n"


@clause("config.md, process.cwd", "the working directory, an absolute path")
def test_cwd(runtime: Runtime) -> None:
    """A relative one is refused."""
    assert runtime.sh("pwd", process(cwd="/tmp")) == ["/tmp"]
    runtime.refuses(process(cwd="tmp"))


@clause("config.md, process.env", "the variables, and no others of the caller's")
def test_env(runtime: Runtime) -> None:
    """The last of several values counts."""
    lines = runtime.sh(
        "env",
        process(env=["PATH=/bin", "A=1", "A=2"]),
        env={"PATH": "/usr/bin:/usr/sbin:/bin", "LEAK": "x"},
    )
    assert "A=2" in lines
    assert not [line for line in lines if line.startswith("LEAK")]


@clause("config.md, process.args", "at least one; found in the container's own PATH")
def test_args(runtime: Runtime) -> None:
    """An empty list and a command that is not there are refused."""
    assert runtime.run("echo", "a b", "c").out == "a b c\n"
    runtime.refuses(process(args=[]))
    runtime.refuses(process(args=["no-such-command"]))
    runtime.refuses(process(args=["/etc/plain"]))


@clause("config.md, process.user", "uid, gid and further groups")
def test_user(runtime: Runtime) -> None:
    """As id(1) sees them."""
    user = {"uid": 1001, "gid": 1002, "additionalGids": [5, 6]}
    lines = runtime.sh("id -u; id -g; grep ^Groups /proc/self/status", process(user=user))
    assert lines[:2] == ["1001", "1002"]
    assert lines[2].split()[1:] == ["5", "6"]


@clause("config.md, process.user.umask", "the umask")
def test_umask(runtime: Runtime) -> None:
    """Of the container's process."""
    assert runtime.sh("umask", process(user={"uid": 0, "gid": 0, "umask": 0o077})) == ["0077"]


@clause("config.md, process.capabilities", "each of the five sets is what is given")
def test_capabilities(runtime: Runtime) -> None:
    """As the kernel shows them, for a user that is not root."""
    sets = {name: ["CAP_KILL", "CAP_CHOWN"] for name in
            ("bounding", "effective", "permitted", "inheritable", "ambient")}  # fmt: skip
    change = process(user={"uid": 5, "gid": 5}, capabilities=sets)
    lines = runtime.sh("grep ^Cap /proc/self/status", change)
    assert [line.split()[1] for line in lines] == ["0000000000000021"] * 5


@clause("config.md, process.capabilities", "what cannot be granted is warned of, not refused")
def test_capabilities_that_are_none(runtime: Runtime) -> None:
    """A name no kernel knows."""
    sets = {name: ["CAP_KILL", "CAP_FLY"] for name in ("bounding", "effective", "permitted")}
    done = runtime.run("grep", "^CapEff", "/proc/self/status", change=process(capabilities=sets))
    assert done.out.split() == ["CapEff:", "0000000000000020"]
    assert "CAP_FLY" in done.err


@clause("config.md, process.noNewPrivileges", "set where it is true, else not")
def test_no_new_privileges(runtime: Runtime) -> None:
    """As the kernel shows it."""
    script = "grep ^NoNewPrivs /proc/self/status"
    assert runtime.sh(script, process(noNewPrivileges=True))[0].split()[1] == "1"
    assert runtime.sh(script, process(noNewPrivileges=False))[0].split()[1] == "0"


@clause("config.md, process.rlimits", "soft and hard limits; a type given twice is an error")
def test_rlimits(runtime: Runtime) -> None:
    """Of open files and core size."""
    limits = [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88},
              {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]  # fmt: skip
    lines = runtime.sh("ulimit -n; ulimit -Hn; ulimit -c", process(rlimits=limits))
    assert lines == ["77", "88", "0"]
    runtime.refuses(process(rlimits=[limits[0], limits[0]]))


@clause("config.md, process.rlimits", "a type that maps to no limit is an error")
def test_rlimit_that_is_none(runtime: Runtime) -> None:
    """By name."""
    runtime.refuses(process(rlimits=[{"type": "RLIMIT_LOVE", "soft": 1, "hard": 1}]))


@clause("config.md, process.oomScoreAdj", "the score of the container's process")
def test_oom_score(runtime: Runtime) -> None:
    """Raising needs no privileges."""
    assert runtime.sh("cat /proc/self/oom_score_adj", process(oomScoreAdj=500)) == ["500"]


@clause("config.md, process.scheduler", "the scheduling policy")
def test_scheduler(runtime: Runtime) -> None:
    """SCHED_BATCH is number 3 in the kernel's own words."""
    change = process(scheduler={"policy": "SCHED_BATCH", "nice": 5})
    assert runtime.sh("cut -d' ' -f 19,41 /proc/self/stat", change) == ["5 3"]


@clause("config.md, process.ioPriority", "the I/O class and level")
def test_io_priority(runtime: Runtime) -> None:
    """As ionice(1) tells them."""
    change = process(ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 6})
    assert runtime.sh("ionice -p $$", change) == ["best-effort: prio 6"]


@clause("config.md, process.apparmorProfile", "one the host does not have: an error")
def test_apparmor(runtime: Runtime) -> None:
    """Never ignored: the command does not run. Which profiles are loaded the kernel says at the
    latest when one is taken on."""
    done = runtime.run("echo", "ran", change=process(apparmorProfile="bayplan-no-such-profile"))
    assert done.status != 0
    assert "ran" not in done.lines
    assert "Traceback" not in done.err


@clause("config.md, process.selinuxLabel", "refused where the host has no SELinux")
def test_selinux(runtime: Runtime) -> None:
    """Never ignored."""
    if Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("this host has SELinux")
    runtime.refuses(process(selinuxLabel="system_u:system_r:container_t:s0"))


@clause("config.md, process.terminal", "a pseudo terminal on 0, 1, 2 and /dev/console, of the size")
def test_terminal(runtime: Runtime) -> None:
    """Given out over the console socket."""
    script = "tty; test /dev/console -ef /dev/pts/0 && echo console; stty size"
    change = process(terminal=True, consoleSize={"height": 33, "width": 111})
    path = runtime.bundle("sh", "-c", script, change=change)
    with Console(path / "console.sock") as console:
        runtime.ok("create", "--bundle", path, "--console-socket", console.path, path.name)
        master = console.master()
        runtime.ok("start", path.name)
        assert read_terminal(master).split() == ["/dev/pts/0", "console", "33", "111"]


@clause("config.md, process.terminal", "without a console socket: an error")
def test_terminal_without_socket(runtime: Runtime) -> None:
    """create could leave it to nobody."""
    runtime.refuses(process(terminal=True))


@clause("config.md, hostname", "set in the uts namespace; without a new one an error")
def test_hostname(runtime: Runtime) -> None:
    """The host's own stays."""
    name = Path("/proc/sys/kernel/hostname").read_text()
    assert runtime.sh("hostname", lambda document: document.update(hostname="inside")) == ["inside"]
    assert Path("/proc/sys/kernel/hostname").read_text() == name

    def without(document: Document) -> None:
        document["hostname"] = "inside"
        document["linux"]["namespaces"] = [{"type": "pid"}, {"type": "mount"}]

    runtime.refuses(without)


@clause("config.md, domainname", "set in the uts namespace")
def test_domainname(runtime: Runtime) -> None:
    """As the kernel shows it."""
    change: Change = lambda document: document.update(domainname="example.org")  # noqa: E731
    assert runtime.sh("cat /proc/sys/kernel/domainname", change) == ["example.org"]
