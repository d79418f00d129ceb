"""PyPI's etcd3 reads what the store wrote, and writes what the store reads.

It cannot be imported beside protobuf's C implementation, nor beside our own stubs of the same
messages: hence a process of its own, with the pure-Python implementation.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys

from controller.store import codec
from controller.store.base import Kind
from controller.store.etcd import EtcdStore
from tests.integration.store.etcds import Etcd
from tests.integration.store.test_store import a_node, a_slot

READER = """
import base64, json, sys
import etcd3

client = etcd3.client(host=sys.argv[1], port=0, timeout=10)
client.put("/bayplan/v1/nodes/by-etcd3", base64.b64decode(sys.argv[2]))
found = {
    meta.key.decode(): [base64.b64encode(value).decode(), meta.mod_revision, meta.lease_id]
    for value, meta in client.get_prefix("/bayplan/v1/")
}
print(json.dumps(found))
"""


async def test_an_independent_client_agrees(etcd: Etcd) -> None:
    """Keys, values, revisions and the leader's lease are as the other client reads them."""
    store = EtcdStore(etcd.config)
    await store.start(15)
    lead = await store.take_lead("me", 10)
    assert lead
    revision = await store.commit((a_node("a"), a_slot(3)), lead.guard)
    host = f"unix:{etcd.directory}/client.sock"
    theirs = base64.b64encode(codec.encode(a_node("by-etcd3").value)).decode()
    done = subprocess.run(
        [sys.executable, "-c", READER, host, theirs],
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert {
        "/bayplan/v1/leader",
        "/bayplan/v1/nodes/a",
        "/bayplan/v1/nodes/by-etcd3",
        "/bayplan/v1/slots/d/web.3",
    } == set(found)
    content, mod_revision, _ = found["/bayplan/v1/nodes/a"]
    assert revision == mod_revision
    assert codec.decode(Kind.NODE, base64.b64decode(content), 1).value == a_node("a").value
    assert ["bWU=", lead.guard.create_revision, lead.lease_id] == found["/bayplan/v1/leader"]
    await store.wait_for(found["/bayplan/v1/nodes/by-etcd3"][1], 5)
    assert a_node("by-etcd3").value == store.tables.nodes["", "by-etcd3"].value
    await store.close()
