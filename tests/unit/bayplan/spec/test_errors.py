# ruff: noqa: E501
"""What an operator reads when a spec is wrong."""

from __future__ import annotations

import textwrap

import pytest

from bayplan.spec import SpecErrors, parse

BASE = "kind: Service\nname: web\nimage: web:1\n"
AT = "web.yaml:4: services/web: "


def errors_of(text: str) -> list[str]:
    with pytest.raises(SpecErrors) as caught:
        parse(textwrap.dedent(text), origin="web.yaml")
    return str(caught.value).split("\n")


FIELD_ERRORS = [
    # sizes, durations, cpu, counts
    ('resources: {memory: "12 QB"}', 'resources.memory: "12 QB" is not a size; write e.g. 512MiB'),
    ("resources: {memory: 512}", 'resources.memory: "512" has no unit; write e.g. 512MiB'),
    ("resources: {memory: -1MiB}", 'resources.memory: "-1MiB" is not a size; write e.g. 512MiB'),
    (
        "resources: {memory: 1MiB}",
        "resources.memory: is too little for any process to start; write at least 4MiB",
    ),
    (
        "resources: {memory: 9999999TiB}",
        'resources.memory: "9999999TiB" is larger than any host; write e.g. 512MiB',
    ),
    (
        "resources: {cpu: half}",
        'resources.cpu: "half" is not an amount of cpu; write e.g. 0.5 or 500m',
    ),
    ("resources: {cpu: 0}", "resources.cpu: must be more than 0; leave it out for no limit"),
    (
        "resources: {cpu: 0.0001}",
        'resources.cpu: "0.0001" is finer than a thousandth of a core; write e.g. 0.5 or 500m',
    ),
    ("resources: {pids: 0200}", 'resources.pids: "0200" begins with a zero; write 200'),
    ("stop: {grace: 30}", 'stop.grace: "30" has no unit; write e.g. 30s'),
    ("stop: {grace: 1x}", 'stop.grace: "1x" is not a duration; write e.g. 30s'),
    ("stop: {grace: 400d}", 'stop.grace: "400d" is more than a year; write e.g. 30s'),
    ("stop: {signal: SIGFOO}", 'stop.signal: "SIGFOO" is not a signal; write e.g. SIGTERM'),
    ("replicas: three", 'replicas: "three" is not a whole number; write e.g. 3'),
    ("replicas: 22:22", 'replicas: "22:22" is not a whole number; write e.g. 3'),
    ("replicas: -1", 'replicas: "-1" is less than 0; write e.g. 3'),
    (
        "replicas: 99999999999999999999",
        'replicas: "99999999999999999999" is more than 1000000; write e.g. 3',
    ),
    ("replicas: 200000", "replicas: 200000 is out of range; write 0 to 100000"),
    ("replicas: [1]", "replicas: is a list, not a single value; write e.g. 3"),
    ("replicas:", "replicas: has no value; write one, or leave the field out"),
    ("read_only: yes", 'read_only: "yes" is neither true nor false'),
    # names of fields and their shapes
    ("replics: 3", 'replics: there is no such field; did you mean "replicas"?'),
    (
        "health: 3",
        "health: must be a mapping; its fields are exec, tcp, http, start_period, "
        "interval, timeout, retries",
    ),
    ("env: 3", "env: must be a mapping; write e.g. env: {LOG_LEVEL: info}"),
    ("env: [A=b]", "env: must be a mapping; write e.g. env: {LOG_LEVEL: info}"),
    ("ports: ['8080:80']", "ports: must be a mapping; write e.g. ports: {http: 8080}"),
    (
        "mounts: ['/srv:/data']",
        "mounts: must be a mapping; write e.g. mounts: {/data: {volume: shop}}",
    ),
    (
        "mounts: {/a: {bind: ../etc}}",
        'mounts[/a].bind: "../etc" is not an absolute path; write e.g. /etc',
    ),
    (
        "namespace: " + "a" * 64,
        'namespace: "aaaaaaaaaaaaaaaaaaaa…" has 64 characters; at most 63',
    ),
    ("env: {1A: x}", 'env.1A: "1A" is not the name of a variable; use letters, digits and _'),
    ("env: {A: {sekret: x/y}}", 'env.A.sekret: there is no such field; did you mean "secret"?'),
    (
        "env: {A: {secret: x}}",
        'env.A.secret: "x" does not name a key of a secret; write NAME/KEY, e.g. shop-db/password',
    ),
    ("env: {A: {}}", "env.A: wants a value or a secret; write text or {secret: NAME/KEY}"),
    (
        "labels: {'a b': x}",
        'labels[a b]: "a b" is not a label; use letters, digits, dots, dashes and slashes',
    ),
    (
        "namespace: Prod",
        'namespace: "Prod" is not a name; use lower-case letters, digits and dashes, e.g. prod',
    ),
    # ports and network
    ("ports: {http: 0}", "ports.http.container: 0 is not a port; write 1 to 65535"),
    (
        "ports: {http: {publish: 80}}",
        "ports.http.container: is missing; write container: … "
        "(port the process listens on, 1 to 65535)",
    ),
    (
        "ports: {http: {container: 80, publish: some}}",
        'ports.http.publish: "some" is neither a port nor auto; write 8080 or auto',
    ),
    (
        "ports: {http: {container: 80, publish: 0}}",
        "ports.http.publish: 0 is not a port; write 1 to 65535, or auto",
    ),
    ("ports: {a: 80, b: 80}", 'ports.b.container: 80/tcp is port "a" already; leave one out'),
    (
        "ports: {a: {container: 80, publish: 9}, b: {container: 81, publish: 9}}",
        'ports.b.publish: 9/tcp is published by port "a" already; write another one, or auto',
    ),
    (
        "ports: {http: {container: 80, protocol: tpc}}",
        'ports.http.protocol: "tpc" is not one of tcp, udp; did you mean "tcp"?',
    ),
    (
        "{network: host, ports: {http: {container: 80, publish: 81}}}",
        "ports.http.publish: 81 cannot differ from the container's port with network: host; write 80",
    ),
    (
        "{network: host, ports: {http: {container: 80, publish: auto}}}",
        "ports.http.publish: cannot be auto with network: host; the process itself listens on 80",
    ),
    (
        "{network: none, ports: {http: {container: 80, publish: 80}}}",
        "ports.http.publish: cannot be published with network: none; leave it out",
    ),
    (
        "{network: host, hostname: x}",
        "hostname: cannot be set with network: host, which has the host's name",
    ),
    # mounts and files
    (
        "mounts: {data: {tmpfs: 1MiB}}",
        'mounts.data: "data" is not an absolute path; write e.g. /data',
    ),
    (
        "mounts: {/a/../b: {tmpfs: 1MiB}}",
        'mounts[/a/../b]: "/a/../b" holds ".."; write the path it leads to',
    ),
    (
        "mounts: {/proc/x: {tmpfs: 1MiB}}",
        "mounts[/proc/x]: is the container's own; mount elsewhere",
    ),
    ("mounts: {/: {tmpfs: 1MiB}}", "mounts[/]: would cover the root file system; mount below it"),
    (
        "mounts: {/a: {tmpfs: 1MiB}, /a/: {tmpfs: 1MiB}}",
        "mounts[/a/]: is /a already; leave one out",
    ),
    (
        "mounts: {/a: {read_only: true}}",
        "mounts[/a]: says not what to mount; write one of tmpfs: 64MiB, volume: NAME and bind: /path",
    ),
    (
        "mounts: {/a: {bind: etc}}",
        'mounts[/a].bind: "etc" is not an absolute path; write e.g. /etc',
    ),
    (
        "mounts: {/a: {volume: A_b}}",
        'mounts[/a].volume: "A_b" is not a name; use lower-case letters, digits and dashes, e.g. a-b',
    ),
    ("mounts: {/a: {tmpfs: 0MiB}}", "mounts[/a].tmpfs: needs a size above 0; write e.g. 64MiB"),
    (
        "files: {/run/x: {secret: a/b, mode: rw}}",
        'files[/run/x].mode: "rw" is not a file mode; write e.g. "0400"',
    ),
    (
        "files: {/proc/x: {secret: a/b}}",
        "files[/proc/x]: is the container's own; write e.g. /run/secrets/key",
    ),
    (
        "files: {/run/x: {}}",
        "files[/run/x].secret: is missing; write secret: … "
        "(NAME/KEY of a secret in the same namespace)",
    ),
    # health, restart, update
    (
        "health: {interval: 5s}",
        "health: has none of exec, tcp and http; write e.g. http: {port: http}",
    ),
    (
        "{ports: {a: 80}, health: {http: {port: a}, tcp: a}}",
        "health: has tcp and http at once; leave one out",
    ),
    (
        "{ports: {a: 80}, health: {tcp: b}}",
        'health.tcp.port: "b" is not a port of this service; it has a',
    ),
    (
        "health: {tcp: b}",
        'health.tcp.port: "b" is not a port of this service; it has none; write '
        "e.g. ports: {http: 8080}",
    ),
    (
        "{ports: {a: 80}, health: {http: {port: a, path: x}}}",
        'health.http.path: "x" is not a path; write e.g. /healthz',
    ),
    (
        "{ports: {a: 80}, health: {tcp: a, interval: 1ms}}",
        "health.interval: is too short; write at least 100ms",
    ),
    (
        "{ports: {a: 80}, health: {tcp: a, retries: 0}}",
        "health.retries: 0 is out of range; write 1 to 1000",
    ),
    ("health: {exec: []}", "health.exec.command: is empty; write e.g. [/bin/healthy]"),
    (
        "restart: sometimes",
        'restart: "sometimes" is not one of always, on_failure, never',
    ),
    (
        "restart: {delay: 10s, max_delay: 1s}",
        "restart.max_delay: is less than delay; write a longer time",
    ),
    (
        "update: {max_surge: 0}",
        "update.max_surge: and max_unavailable are both 0, so that no task "
        "could be replaced; write max_surge: 1",
    ),
    ("update: {max_surge: 25%}", "update.max_surge: 25% of what? write replicas too, or a count"),
    ("update: {max_surge: 101%}", 'update.max_surge: "101%" is more than 100%; write e.g. 25%'),
    (
        "update: {on_failure: rolback}",
        'update.on_failure: "rolback" is not one of rollback, pause; did you mean "rollback"?',
    ),
    (
        "update: {monitor: 5m, progress_deadline: 1m}",
        "update.progress_deadline: is shorter than monitor, so that every update would fail; write a "
        "longer time",
    ),
    (
        "disruption: {max_unavailable: 1, min_available: 2}",
        "disruption: wants one of max_unavailable and min_available; write e.g. 1 or 20%",
    ),
    (
        "disruption: {min_available: 80%}\nreplicas: 3\nupdate: {max_surge: 0, max_unavailable: 1}",
        "disruption: lets none of 3 tasks go, and with max_surge 0 none could ever be updated or "
        "moved; write max_surge: 1, or a larger budget",
    ),
    ("update: {canary: 0}", "update.canary: 0 is out of range; write e.g. 1 or 10%"),
    (
        "update: {strategy: blue_green, canary: 1}",
        "update.canary: does not go with strategy: blue_green, which waits once all new tasks run; "
        "leave one of them out",
    ),
    (
        "update: {strategy: blue_green}\nmounts: {/data: {volume: data}}",
        "update.strategy: is blue_green, but two tasks of a slot would write to its volume; "
        "write rolling",
    ),
    # placement
    (
        "placement: {require: [label.disk = ssd]}",
        'placement.require[0]: "label.disk = ssd" compares with a single =; write label.disk == ssd',
    ),
    (
        "placement: {require: [disk == ssd]}",
        'placement.require[0]: "disk" names neither a label nor an attribute of a node; write '
        "label.disk or attr.disk",
    ),
    (
        "placement: {require: ['label.a in ()']}",
        'placement.require[0]: "label.a in ()" has an empty value in its list; write e.g. label.a in '
        "(a, b)",
    ),
    (
        "placement: {prefer: [{match: label.a == b, weight: 101}]}",
        "placement.prefer[0].weight: 101 is out of range; write 1 to 100",
    ),
    (
        "placement: {spread: [label.a, label.a]}",
        "placement.spread[1].over: label.a stands twice; leave one out",
    ),
    # the rest
    ("user: a b", 'user: "a b" is not a user; write e.g. 1000:1000 or nobody'),
    ("working_dir: srv", 'working_dir: "srv" is not an absolute path; write e.g. /srv/app'),
    (
        "capabilities: {add: [NET_ADM]}",
        'capabilities.add[0]: "NET_ADM" is not a capability; write e.g. NET_ADMIN',
    ),
    (
        'command: "sh -c \'x"',
        'command: "sh -c \'x" cannot be split into words (no closing quotation); write e.g. '
        "[/bin/app, --verbose]",
    ),
    ("userns: mine", 'userns: "mine" is not one of private, host'),
    ("log: {policy: wait}", 'log.policy: "wait" is not one of drop, block'),
]


@pytest.mark.parametrize(("line", "expected"), FIELD_ERRORS, ids=[f[0] for f in FIELD_ERRORS])
def test_a_wrong_field_says_where_it_stands_and_what_would_be_right(
    line: str, expected: str
) -> None:
    """One wrong field gives one line: place, object, field, fault, remedy."""
    text = (
        line[1:-1].replace(", ports", "\nports").replace(", health", "\nhealth")
        if (line.startswith("{"))
        else line
    )
    text = text.replace(", hostname", "\nhostname")
    (error,) = errors_of(BASE + text)
    place, _, rest = error.partition(": services/web: ")
    assert place in ("web.yaml:4", "web.yaml:5")
    assert rest == expected


def test_all_errors_of_a_file_come_at_once_in_the_order_of_lines() -> None:
    """Shapes, values and rules between fields are reported together."""
    text = """\
        kind: Service
        name: Shop_Web
        image: shop/web:1.42
        replics: 6
        resources: {memory: "12 QB"}
        mounts:
          /var/cache: {tmpfs: 64MiB, volume: x}
        ---
        kind: Service
        name: two
        image: "two words"
        image: x
    """
    assert errors_of(text) == [
        'web.yaml:2: services/Shop_Web: name: "Shop_Web" is not a name; use lower-case letters, '
        "digits and dashes, e.g. shop-web",
        'web.yaml:4: services/Shop_Web: replics: there is no such field; did you mean "replicas"?',
        'web.yaml:5: services/Shop_Web: resources.memory: "12 QB" is not a size; write e.g. 512MiB',
        "web.yaml:7: services/Shop_Web: mounts[/var/cache]: has tmpfs and volume at once; write "
        "one of tmpfs: 64MiB, volume: NAME and bind: /path",
        'web.yaml:11: services/two: image: "two words" is not an image; write e.g. web:1 or '
        "docker.example.com/shop/web:1.42",
        "web.yaml:12: services/two: image: stands in line 11 already; leave one out",
    ]


YAML_ERRORS = [
    (
        "a: [1, 2",
        "web.yaml:1: not YAML: did not find expected ',' or ']' (while parsing a flow sequence)",
    ),
    (
        "kind: Service\n\tname: web",
        "web.yaml:2: not YAML: a tab indents this line; indent with spaces",
    ),
    (
        "a: !!python/object:os.system x",
        'web.yaml:1: the tag "tag:yaml.org,2002:python/object:'
        'os.system" has no meaning here; leave it out',
    ),
    ("a: *b", "web.yaml:1: *b refers to no anchor above it"),
    ("a: &b [*b]", "web.yaml:1: *b refers to what it stands in"),
    ("? [a]\n: b", "web.yaml:1: a key must be a word"),
    (
        "a: {D:}",
        'web.yaml:1: not YAML: a ":" where none can stand; put a space after it, or quotes around a value that holds it',
    ),
    ("<<: 3", "web.yaml:1: << wants a mapping, e.g. <<: *base"),
    ("[" * 30 + "]" * 30, "web.yaml:1: nested more than 24 deep"),
    ("just words", "web.yaml:1: document 1: is no object; write kind: Service, name: … and so on"),
    (
        "name: x",
        "web.yaml:1: document 1: kind: is missing; write kind: Service, Job, Cron, Daemon, Secret or Quota",
    ),
    ("Kind: Service", 'web.yaml:1: document 1: kind: is missing; did you mean "kind" by "Kind"?'),
    (
        "kind: service",
        'web.yaml:1: document 1: kind: "service" is not a kind of object; did you mean "Service"?',
    ),
    (
        "kind: Pod",
        'web.yaml:1: document 1: kind: "Pod" is not a kind of object; write Service, Job, Cron, Daemon, Secret or Quota',
    ),
    (
        "kind:",
        "web.yaml:1: document 1: kind: has no value; write Service, Job, Cron, Daemon, Secret or Quota",
    ),
]


@pytest.mark.parametrize(("text", "expected"), YAML_ERRORS, ids=[t[0][:40] for t in YAML_ERRORS])
def test_text_that_is_no_spec_gets_the_same_treatment(text: str, expected: str) -> None:
    """Faults of the YAML itself and of the document as a whole."""
    assert errors_of(text) == [expected]


def test_anchors_cannot_blow_up() -> None:
    """Nested aliases are counted as they expand."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (error,) = errors_of("\n".join(lines))
    assert error.endswith("anchors expand to more than 20000 values")


def test_one_object_in_two_places_names_both() -> None:
    """The same service twice in what is applied together."""
    text = BASE + "---\n" + BASE
    assert errors_of(text) == [
        "web.yaml:5: services/web: stands in web.yaml:1 already; leave one out, or give one "
        "another name or namespace"
    ]


def test_a_secret_whose_values_cannot_be_read_is_not_called_empty() -> None:
    """One error for one mistake."""
    text = "kind: Secret\nname: db\nbinary: {key: '###'}\n"
    assert errors_of(text) == [
        "web.yaml:3: secrets/db: binary.key: is not base64; write what `base64` prints"
    ]
    assert errors_of("kind: Secret\nname: db\nfiles: {key: /etc/hostname}\n") == [
        'web.yaml:3: secrets/db: files.key: "/etc/hostname" is not below the directory of this file; copy it there'
    ]


def test_a_secret_value_never_stands_in_an_error() -> None:
    """What is wrong with a secret is said without its values."""
    text = "kind: Secret\nname: db\nvalues: {password: [hunter2]}\nbinary: {key: '%hunter2'}\n"
    errors = errors_of(text)
    assert errors == [
        'web.yaml:3: secrets/db: values.password: is a list, not a single value; write e.g. "text"',
        "web.yaml:4: secrets/db: binary.key: is not base64; write what `base64` prints",
    ]
