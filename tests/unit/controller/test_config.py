"""Settings: where they come from, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.config import ConfigError, Listen, load


def test_defaults() -> None:
    """Managed etcd, and the documented ports."""
    config = load([], {})
    assert config.managed_etcd
    assert [config.listen.port, config.join_listen.port] == [7443, 7444]
    assert [config.registry_listen.port, config.web_listen.port] == [7445, 7446]
    assert config.lost_after_s == 5.0
    assert config.kek_file == Path("/var/lib/bayplan/controller/kek.key")


def test_flag_before_environment_before_file(tmp_path: Path) -> None:
    """Each overrides the next."""
    file = tmp_path / "c.yaml"
    file.write_text("listen: 10.0.0.3:3\njoin-listen: 10.0.0.3:3\nname: three\n")
    environment = {"BAYPLAN_LISTEN": "10.0.0.2:2", "BAYPLAN_NAME": "two"}
    config = load([f"--config={file}", "--name=one"], environment)
    assert config.name == "one"
    assert config.listen == Listen(host="10.0.0.2", port=2)
    assert config.join_listen == Listen(host="10.0.0.3", port=3)


def test_toml_with_a_list(tmp_path: Path) -> None:
    """Endpoints may be a list there."""
    file = tmp_path / "c.toml"
    file.write_text('etcd = ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]\n')
    config = load([f"--config={file}"], {})
    assert config.etcd_endpoints == ("http://10.0.0.1:2379", "http://10.0.0.2:2379")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen=7443"], "--listen '7443' is not HOST:PORT, e.g. 0.0.0.0:7443"),
        (["--listen=host:1"], "--listen 'host:1' does not begin with an IP address: 'host'"),
        (["--etcd=etcd:2379"], "--etcd 'etcd:2379' holds 'etcd:2379', which is neither"),
        (["--etcd=https://a:2379"], "--etcd https://… needs --etcd-ca"),
        (["--etcd-user=u"], "--etcd-user and --etcd-password-file must be given together"),
        (["--etcd-ca=/nowhere"], "--etcd-ca '/nowhere' is not a file"),
        (["--advertise=a:1"], "--advertise 'a:1' carries a port; give the host alone"),
        (["--name=No Name"], "--name 'No Name' is not a name"),
        (["--subnet-pool=10.0.0.0/99"], "--subnet-pool '10.0.0.0/99' is not an IPv4 network"),
        (["--subnet-prefix=8"], "--subnet-prefix '8' must be between the pool's 12 and 28"),
        (
            ["--placement-policy=cluster"],
            "--placement-policy 'cluster' is none of spread, pack, balance",
        ),
        (["--lost-after=5"], "--lost-after '5' is refused"),
        (["--lost-after=1s"], "--lost-after '1s' must be between 3s and 3600s"),
        (["--log-level=loud"], "--log-level 'loud' is none of debug, info, warning, error"),
        (["--config=/nowhere.yaml"], "cannot read --config /nowhere.yaml: No such file"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], said: str) -> None:
    """One sentence, with the setting and what was given."""
    with pytest.raises(ConfigError) as wrong:
        load(arguments, {})
    assert wrong.value.message.startswith(said)


def test_unknown_setting_in_a_file(tmp_path: Path) -> None:
    """A typo does not go unseen."""
    file = tmp_path / "c.yaml"
    file.write_text("lissten: 10.0.0.3:3\n")
    with pytest.raises(ConfigError, match="there is no setting 'lissten'"):
        load([f"--config={file}"], {})
