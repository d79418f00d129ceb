"""bay completion."""

from __future__ import annotations

import click

from bayplan.cli.settings import Settings, verb

HELP = {
    "bash": 'eval "$(bay completion bash)"  # in ~/.bashrc',
    "zsh": 'eval "$(bay completion zsh)"  # in ~/.zshrc',
    "fish": "bay completion fish > ~/.config/fish/completions/bay.fish",
}


@verb("completion")
@click.argument("shell", type=click.Choice(list(HELP)))
def command(settings: Settings, shell: str) -> None:
    """Print the completion of a shell: eval "$(bay completion bash)" in ~/.bashrc."""
    from click.shell_completion import get_completion_class

    from bayplan.cli import render
    from bayplan.cli.main import bay

    found = get_completion_class(shell)
    assert found is not None, "click knows the shells of the choice"
    render.show(f"# {HELP[shell]}\n" + found(bay, {}, "bay", "_BAY_COMPLETE").source())
