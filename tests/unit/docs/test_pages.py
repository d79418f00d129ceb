"""What the pages say exists: links, verbs, options, settings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from agent import config as agent_config
from bayplan.cli.main import bay
from controller import config as controller_config
from lab.__main__ import cli as lab

ROOT = Path(__file__).parents[3]
PAGES = [*sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*.md"))]
OPERATIONS = (ROOT / "docs/operations.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files that are linked exist, and headings that are linked to."""
    for target, _, heading in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", page.read_text()):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", found.read_text(), re.M)
            anchors = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]
            assert heading in anchors, f"{target}#{heading}"


def _commands(page: Path) -> list[list[str]]:
    """Each `bay …` in code, inline or in a block, as words without comments."""
    text = page.read_text()
    lines = re.findall(r"`(bay [^`\n]+)`", text)
    for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S):
        lines += re.findall(r"^\$? ?(?:BAY_CONFIG=\S+ |\(umask 077; )?(bay .+)$", block, re.M)
    found = []
    for line in lines:
        for part in re.split(r" [|>;] ?|; ", line.replace("…", "")):
            words = shlex.split(re.sub(r"(^| )#.*|\)\s*$", "", part))
            if words[:1] == ["bay"]:
                found.append(words[1:])
    return found


def _check(command: click.Command, words: list[str]) -> None:
    context = click.Context(command)
    while words and isinstance(command, click.Group):
        word = words[0]
        if word.startswith("-") or word.isupper():
            return
        chosen = [w for w in word.split("|") if w]
        following = [command.get_command(context, w) for w in chosen]
        assert all(following), f"there is no verb {word} in {context.info_name or command.name}"
        if chosen == ["lab"]:
            following = [lab]
        assert following[0] is not None
        command, words = following[0], words[1:]
        context = click.Context(command, info_name=word)
    known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    for word in words:
        if word == "--":
            return
        name = word.split("=")[0].strip("[]")
        if name.startswith("--") or re.fullmatch(r"-[a-zA-Z]", name):
            assert name in known, f"{command.name} has no option {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_verbs_and_options_exist(page: Path) -> None:
    """What a page tells to type can be typed."""
    for words in _commands(page):
        _check(bay, words)


def test_pages_name_commands() -> None:
    """The test above finds what it is to check."""
    assert len(_commands(ROOT / "docs/operations.md")) > 20
    assert len(_commands(ROOT / "README.md")) > 5


def test_every_controller_flag_is_described() -> None:
    """docs/operations.md has each, with its default."""
    for setting in controller_config.SETTINGS:
        row = next(
            (r for r in OPERATIONS.splitlines() if re.match(rf"\| .*`--{setting.name}`", r)), None
        )
        assert row is not None, setting.name
        assert not setting.default or f"`{setting.default}`" in row, row


def _settings(known: dict[str, object], before: str = "") -> list[str]:
    found: list[str] = []
    for name, kind in known.items():
        kind = getattr(kind, "known", kind)
        inner = kind if isinstance(kind, dict) else None
        found += _settings(inner, f"{before}{name}.") if inner else [before + name]
    return found


def test_every_agent_setting_is_described() -> None:
    """docs/operations.md has each."""
    settings = _settings(agent_config._FIELDS)
    assert len(settings) > 20
    assert [s for s in settings if f"`{s}`" not in OPERATIONS] == []


def test_the_example_of_agent_settings_is_valid(tmp_path: Path) -> None:
    """The agent reads it, and it says what the text says."""
    block = OPERATIONS.split("# /etc/bayplan/agent.yaml\n")[1].split("```")[0]
    path = tmp_path / "agent.yaml"
    path.write_text(block)
    assert agent_config.load(path, {}).allow.bind == ("/srv/shared",)


def test_the_scrape_configuration_is_yaml() -> None:
    """With both jobs; tests/e2e runs a Prometheus with the same."""
    block = OPERATIONS.split("```yaml\nscrape_configs:")[1].split("```")[0]
    jobs = yaml.safe_load("scrape_configs:" + block)["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["bayplan-controller", "bayplan-agents"]
