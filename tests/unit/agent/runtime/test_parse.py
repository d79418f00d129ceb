"""Reading config.json: what is wrong is named by its JSON path."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.runtime import bundle, parse
from agent.runtime.failure import RuntimeFailure

VALID: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
    "root": {"path": "rootfs"},
    "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
}


def with_(path: str, value: object) -> dict[str, Any]:
    """The valid document with one field set (`process.args`)."""
    document = copy.deepcopy(VALID)
    *parents, last = path.split(".")
    at = document
    for name in parents:
        at = at.setdefault(name, {})
    at[last] = value
    return document


def test_valid() -> None:
    """The smallest document is read."""
    config = parse.config(VALID)
    assert config.process.args == ("sh",)
    assert config.linux.namespaces == {"mount": "", "pid": ""}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("ociVersion", "2.0", 'ociVersion: "2.0" is not a 1.x version'),
        ("process.args", [], "process.args: is required: the command to run"),
        ("process.args", "sh", "process.args: must be a list, not text"),
        ("process.args", ["a\0b"], "process.args[0]: contains a zero byte"),
        ("process.cwd", "tmp", 'process.cwd: "tmp" is not an absolute path'),
        ("process.env", ["A=1", "B"], "process.env[1]: is not NAME=value"),
        ("process.user", {"uid": -1}, "process.user.uid: -1 is not between 0 and 4294967294"),
        ("process.user", {"uid": True}, "process.user.uid: must be a number, not true or false"),
        ("process.rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}],
         'process.rlimits[0].type: "RLIMIT_X" is not a limit, like RLIMIT_NOFILE'),
        ("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2,
         'process.rlimits[1].type: "RLIMIT_CPU" is given twice'),
        ("process.scheduler", {"policy": "SCHED_ISO"},
         'process.scheduler.policy: "SCHED_ISO" is not a policy of this kernel, like SCHED_RR'),
        ("process.ioPriority", {"class": "IOPRIO_CLASS_X"}, "process.ioPriority.class: "
         '"IOPRIO_CLASS_X" is not one of IOPRIO_CLASS_RT, IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE'),
        ("process.execCPUAffinity", {"final": "3-1"},
         'process.execCPUAffinity.final: "3-1" is not a range up to 8191'),
        ("hooks", {"poststop": [{"path": "x"}]},
         'hooks.poststop[0].path: "x" is not an absolute path'),
        ("hooks", {"poststop": [{"path": "/x", "timeout": 0}]},
         "hooks.poststop[0].timeout: 0 is not between 1 and 31536000"),
        ("hooks", {"later": []}, "hooks.later: is not one of prestart, createRuntime, "
         "createContainer, startContainer, poststart, poststop"),
        ("domainname", "d", "domainname: needs a uts namespace in linux.namespaces"),
        ("linux.timeOffsets", {"monotonic": {"secs": 1}},
         "linux.timeOffsets: needs a new time namespace in linux.namespaces"),
        ("linux.timeOffsets", {"realtime": {"secs": 1}},
         "linux.timeOffsets.realtime: is not one of monotonic, boottime"),
        ("linux.personality", {"domain": "BSD"},
         'linux.personality.domain: "BSD" is not one of LINUX, LINUX32'),
        ("linux.namespaces", [{"type": "mount", "path": "/x"}],
         'root.path: must be "/": a joined mount namespace brings its own root'),
        ("linux.sysctl", {"net.ipv4./../../kernel/core_pattern": "x"},
         'linux.sysctl: "net.ipv4./../../kernel/core_pattern" is not the name of a sysctl'),
        ("linux.sysctl", {"net/../kernel/core_pattern": "x"},
         'linux.sysctl: "net/../kernel/core_pattern" is not the name of a sysctl'),
        ("linux.resources", {"hugepageLimits": [{"pageSize": "2M", "limit": 1}]},
         'linux.resources.hugepageLimits[0].pageSize: "2M" is not a page size, like 2MB'),
        ("linux.resources", {"rdma": {"mlx": {}}},
         "linux.resources.rdma.mlx: needs hcaHandles or hcaObjects"),
        ("hostname", "h", "hostname: needs a uts namespace in linux.namespaces"),
        ("mounts", [{"destination": "x"}],
         'mounts[0].destination: "x" is not an absolute path'),
        ("linux.namespaces", [{"type": "pid"}],
         "linux.namespaces: must hold a mount namespace"),
        ("linux.namespaces", [{"type": "mount"}, {"type": "user"}],
         "linux.uidMappings: is required with a new user namespace"),
        ("linux.namespaces", [{"type": "mount"}, {"type": "mount"}],
         'linux.namespaces[1].type: "mount" is given twice'),
        ("linux.uidMappings", [{"containerID": 0, "hostID": 1, "size": 1}],
         "linux.uidMappings: needs a user namespace in linux.namespaces"),
        ("linux.cgroupsPath", "/a/../b", 'linux.cgroupsPath: must not hold ".."'),
        ("linux.sysctl", {"kernel.core_pattern": "x"},
         "linux.sysctl: kernel.core_pattern is not namespaced: it would change the host"),
        ("linux.sysctl", {"net.ipv4.ip_forward": "1"},
         "linux.sysctl: net.ipv4.ip_forward needs a network namespace of its own"),
        ("linux.resources", {"memory": {"limit": "1g"}},
         "linux.resources.memory.limit: must be a number, not text"),
        ("linux.resources", {"devices": [{"allow": True, "access": "x"}]},
         'linux.resources.devices[0].access: "x" is not made of r, w and m'),
        ("linux.intelRdt", {"closID": "a"}, "linux.intelRdt: is not supported by this runtime; "
         "remove it or use runc or crun"),
    ],
)  # fmt: skip
def test_errors_name_the_field(path: str, value: object, message: str) -> None:
    """Each mistake is one sentence that begins with where it is."""
    with pytest.raises(RuntimeFailure) as caught:
        parse.config(with_(path, value))
    assert str(caught.value) == message


def test_an_unknown_capability_is_a_warning() -> None:
    """config.md, "capabilities": what maps to nothing is warned of, not refused."""
    sets = parse.config(with_("process.capabilities", {"bounding": ["CAP_FLY", "CAP_KILL"]}))
    assert sets.process.capabilities is not None
    assert sets.process.capabilities.bounding == 1 << 5
    assert sets.process.capabilities.unknown == (
        'process.capabilities.bounding[0]: "CAP_FLY" is not a capability; ignored',
    )


@pytest.mark.parametrize("document", [[], "x", 1, None, {"process": []}])
def test_other_json_is_refused(document: object) -> None:
    """Whatever JSON it is, it is a failure and not a crash."""
    with pytest.raises(RuntimeFailure):
        parse.config(document)


def write(path: Path, layers: object) -> Path:
    (path / "config.json").write_text(json.dumps(VALID))
    (path / "layers.json").write_text(json.dumps(layers))
    return path


def test_layers(tmp_path: Path) -> None:
    """layers.json makes the root an overlay, lowest first."""
    path = write(tmp_path, {"layers": ["/a", "/b"], "upper": "/t/upper", "work": "/t/work"})
    layers = bundle.load(path).layers
    assert layers is not None
    assert layers.lower == (Path("/a"), Path("/b"))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"layers": [], "upper": "/u", "work": "/w"}, "layers.json.layers: must name at least"),
        ({"layers": ["/a"], "upper": "/t/u", "work": "/w"}, "layers.json.work: must be a sibling"),
        ({"layers": ["a"], "upper": "/u", "work": "/w"}, "layers.json.layers[0]: "),
    ],
)
def test_layers_errors(tmp_path: Path, layers: object, message: str) -> None:
    """Layers that cannot make an overlay are refused when they are read."""
    with pytest.raises(RuntimeFailure) as caught:
        bundle.load(write(tmp_path, layers))
    assert str(caught.value).startswith(message)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing or broken file is named."""
    with pytest.raises(RuntimeFailure, match=r"cannot read .*config\.json: No such file"):
        bundle.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RuntimeFailure, match=r"config\.json is not JSON"):
        bundle.load(tmp_path)


_LEAVES = st.none() | st.booleans() | st.integers(-9, 2**70) | st.text(max_size=6)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "path", "limit", "uid", "names"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
_FIELDS = [
    *(f"process.{n}" for n in ("args", "cwd", "env", "user", "capabilities", "rlimits", "terminal",
                               "consoleSize", "oomScoreAdj")),
    *(f"linux.{n}" for n in ("namespaces", "uidMappings", "devices", "resources", "seccomp",
                             "sysctl", "maskedPaths", "cgroupsPath", "rootfsPropagation",
                             "personality", "timeOffsets", "resources.blockIO", "resources.rdma",
                             "resources.hugepageLimits", "resources.network")),
    *(f"process.{n}" for n in ("scheduler", "ioPriority", "execCPUAffinity", "selinuxLabel")),
    "root", "mounts", "hostname", "annotations", "linux", "process", "hooks",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_FIELDS), _JSON)
def test_any_value_anywhere_is_read_or_refused(path: str, value: object) -> None:
    """Whatever stands in a field, reading ends in a configuration or in a named failure."""
    try:
        parse.config(with_(path, value))
    except RuntimeFailure as failure:
        assert failure.field  # noqa: PT017
