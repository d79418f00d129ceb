"""A real Prometheus finds the agents at the controller and scrapes them over mutual TLS."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bayplan import contexts
from bayplan.https import client_context
from bayplan.pki import SERVER_NAME
from tests.e2e.rig import Rig, a_service, eventually
from tests.ports import some_ports

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]

WEB_PORT = 7446


def tls_files(cluster: Rig) -> contexts.Context:
    return contexts.load_config(cluster.directory / "bay").contexts[cluster.name]


@pytest.fixture
def prometheus(cluster: Rig, tmp_path: Path) -> Iterator[str]:
    """Its base URL; configured as docs/operations.md says."""
    files = tls_files(cluster)
    tls = {"ca_file": str(files.ca), "cert_file": str(files.cert), "key_file": str(files.key)}
    web = f"{cluster.controller}:{WEB_PORT}"
    named = {**tls, "server_name": SERVER_NAME}
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": "bayplan-controller",
                "scheme": "https",
                "tls_config": named,
                "static_configs": [{"targets": [web]}],
            },
            {
                "job_name": "bayplan-agents",
                "scheme": "https",
                "tls_config": tls,
                "http_sd_configs": [
                    {
                        "url": f"https://{web}/sd/agents",
                        "refresh_interval": "1s",
                        "tls_config": named,
                    }
                ],
            },
        ],
    }
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    (port,) = some_ports(1)
    command = ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with subprocess.Popen(command) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def query(base: str, expression: str) -> list[dict[str, Any]]:
    """The result vector; empty while Prometheus does not answer yet."""
    url = f"{base}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    except OSError:
        return []
    return found


def test_prometheus_scrapes_all_of_it(cluster: Rig, prometheus: str) -> None:
    """Four targets up; each task of the service is there with its memory and its health."""
    cluster.bay("apply", "-", stdin=a_service("shop"))
    up = eventually("four targets", lambda: len(query(prometheus, "up == 1")) == 4)
    assert up
    memory = 'bayplan_task_memory_working_set_bytes{service="shop"} > 0'
    eventually("memory of three tasks", lambda: len(query(prometheus, memory)) == 3)
    nodes = 'bayplan_controller_nodes{state="ready"} == 3'
    eventually("the controller counts three nodes", lambda: query(prometheus, nodes))


def scrape(cluster: Rig, address: str) -> bytes:
    files = tls_files(cluster)
    context = client_context(files.cert, files.key, files.ca)
    context.check_hostname = False
    with urllib.request.urlopen(
        f"https://{address}/metrics", context=context, timeout=10
    ) as answer:
        text: bytes = answer.read()
    return text


def test_promtool_has_no_complaint(cluster: Rig) -> None:
    """Names, types, units and help of everything that is exposed."""
    cluster.bay("apply", "-", stdin=a_service("shop"))
    addresses = [f"{cluster.controller}:{WEB_PORT}"]
    addresses += [f"{address}:9443" for address in cluster.hosts.values()]
    for address in addresses:
        text = scrape(cluster, address)
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, timeout=30
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b""), address


def test_the_controller_says_whether_the_loss_of_a_host_fits(cluster: Rig) -> None:
    """Three small tasks have room on two hosts, and on one."""
    cluster.bay("apply", "-", stdin=a_service("shop"))

    def said() -> bool:
        text = scrape(cluster, f"{cluster.controller}:{WEB_PORT}").decode()
        wanted = [f'bayplan_controller_loss_fits{{hosts="{n}"}} 1.0' for n in (1, 2)]
        return all(line in text for line in wanted)

    eventually("any one and any two fit", said, timeout_s=60)
