"""agent.yaml and flags: what is read, and how what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import Ceilings, ConfigError, load
from bayplan.model.node import Device
from bayplan.model.resources import Resources


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    """Every kind of setting."""
    path = written(
        tmp_path,
        """
name: h1
controllers: ["c1:7443", "[::1]:7443"]
state_dir: /srv/bayplan
reserve: {cpu: 500m, memory: 1GiB, disk: 5GiB}
devices:
  - {name: gpu, count: 2, model: a100, paths: ["/dev/nvidia{}", /dev/nvidiactl]}
  - {name: gpu, paths: ["/dev/nvidia{}"]}
  - {name: seat}
logs: {max_size: 5MiB, files: 2}
timing: {drain_pause: 500ms}
allow:
  bind: [/srv/shared]
  capabilities: [NET_ADMIN]
  host_network: true
  registries: [registry.example]
""",
    )
    config = load(path, {})
    assert config.controllers == ("c1:7443", "[::1]:7443")
    assert config.state_dir == Path("/srv/bayplan")
    assert config.reserve == Resources(cpu_millis=500, memory_bytes=1 << 30, disk_bytes=5 << 30)
    assert config.devices == (
        Device(name="gpu", id="0", model="a100", paths=("/dev/nvidia0", "/dev/nvidiactl")),
        Device(name="gpu", id="1", model="a100", paths=("/dev/nvidia1", "/dev/nvidiactl")),
        Device(name="gpu", id="2", paths=("/dev/nvidia2",)),
        Device(name="seat", id="0"),
    )
    assert (config.log_max_bytes, config.log_files) == (5 << 20, 2)
    assert config.timing.drain_pause_s == 0.5
    assert config.allow == Ceilings(
        bind=("/srv/shared",),
        capabilities=("NET_ADMIN",),
        host_network=True,
        registries=("registry.example",),
        source=str(path),
    )


def test_one_registry_or_several(tmp_path: Path) -> None:
    """In the file and by flags; each is checked."""
    assert load(written(tmp_path, "registry: r1:5000\n"), {}).registry == ("r1:5000",)
    several = load(written(tmp_path, 'registry: [r1:5000, "[::1]:5000"]\n'), {})
    assert several.registry == ("r1:5000", "[::1]:5000")
    with pytest.raises(ConfigError, match=r"^--registry: .* is not host:port"):
        load(None, {"registry": ("r1:5000", "r2")})


def test_flags_stand_over_the_file(tmp_path: Path) -> None:
    """What is not given stays."""
    config = load(written(tmp_path, "name: h1\nruntime: native\n"), {"name": "h2", "subnet": None})
    assert (config.name, config.subnet) == ("h2", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: h1\nalow: {}\n", ":2: there is no setting alow; did you mean allow?"),
        ("labels: {disk: ssd}\n", ":1: labels are set at the controller"),
        ("reserve:\n  memory: 512\n", ':2: reserve.memory: "512" has no unit'),
        ("allow:\n  host_network: yes\n", ':2: allow.host_network: "yes" is neither true nor'),
        ("allow:\n  bind: [srv]\n", ':2: allow.bind: "srv" is not an absolute path'),
        ("name: h1\nname: h2\n", ":2: name is set twice"),
        ("name: [\n", ":2: "),
        ("controllers: c1:7443\n", ":1: controllers must be a list"),
        ("cgroup_root: /\n", ":1: cgroup_root: the root of all cgroups cannot hold tasks"),
        ("devices:\n  - count: 2\n", ":2: devices needs name"),
        (
            "devices:\n  - {name: gpu, paths: [/etc]}\n",
            ':2: devices.paths: "/etc" is not below /dev',
        ),
        ("- name\n", ":1: the file must be a mapping of settings"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    """One sentence, with where and what to write."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(path, {})
    assert str(error.value).startswith(f"{path}{said}")


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    """Unlike the default one."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml", {})


def test_flags_are_checked(tmp_path: Path) -> None:
    """With the flag's name."""
    with pytest.raises(ConfigError, match=r"^--metrics-listen: .* is not host:port"):
        load(None, {"metrics_listen": "9443"})
