"""`bay`: the command line of operators. Each verb is a module that is imported when it is used."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from bayplan.cli.settings import Settings, shared_options
from bayplan.model.errors import BayplanError

# gRPC's C core writes its own log to standard error, beside the one sentence we print.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# verb: (module below bayplan.cli.verbs, help in one line), in the order of the help
VERBS: dict[str, tuple[str, str]] = {
    "apply": ("apply", "Create and change what the files say, and wait until it runs."),
    "plan": ("plan", "Which tasks would start, stop and move if files were applied."),
    "get": ("get", "List services, jobs, tasks, nodes, secrets, quotas, events."),
    "describe": ("describe", "All about a service, task, node, secret or quota."),
    "explain": ("explain", "Why a task is on its node, or has none, and what would help."),
    "whatif": ("whatif", "What if nodes were lost, drained or added, or specs changed."),
    "rebalance": ("rebalance", "Move the few tasks that are better placed elsewhere."),
    "logs": ("logs", "What the tasks of a service wrote."),
    "top": ("top", "What tasks use: processor, memory, processes, disk, network."),
    "exec": ("exec", "Run a command in a task."),
    "attach": ("attach", "Watch a task's own process, and type to it."),
    "cp": ("cp", "Copy files out of a task, or into one."),
    "kill": ("kill", "Send a signal to tasks."),
    "pause": ("pause", "Stop tasks' processes where they are."),
    "unpause": ("unpause", "Let paused tasks go on."),
    "scale": ("scale", "Set the number of tasks."),
    "restart": ("restart", "Replace all tasks, one after another."),
    "stop": ("stop", "Stop a service's tasks and keep the service."),
    "start": ("start", "Start a stopped service."),
    "job": ("job", "Jobs: list, describe, logs, cancel."),
    "cron": ("cron", "Crons: list, describe, run now, suspend, resume."),
    "rollout": ("rollout", "An update under way: status, pause, resume, promote, abort, undo."),
    "rollback": ("rollback", "Go back to an earlier version."),
    "history": ("history", "The versions of a service."),
    "delete": ("delete", "Delete services, jobs, crons, daemons, secrets or quotas."),
    "events": ("events", "What happened, and why."),
    "node": ("node", "The hosts: list, cordon, drain, label, join, remove."),
    "secret": ("secret", "Secrets: set, list, remove."),
    "image": ("image", "Images of the built-in registry: import, list."),
    "spec": ("spec", "Check specs offline; print their JSON Schema."),
    "login": ("login", "Get a certificate for a token."),
    "whoami": ("whoami", "Who you are to the cluster."),
    "user": ("user", "Operators: list, add, remove, log-in tokens."),
    "context": ("context", "The clusters this user knows: list, use, add, remove."),
    "version": ("version", "Versions of bay and of the cluster."),
    "completion": ("completion", "Shell completion for bash, zsh and fish."),
    "lab": ("lab", "Several hosts on this machine, to try things out."),
}

EPILOG = """\b
Begin with
  bay lab up                      a cluster of three hosts on this machine
  bay apply examples/web.yaml     run something on it
  bay get                         see it
  bay describe web                see why it is as it is
"""


class Verbs(click.Group):
    """The verbs, each imported when it is called; the help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = import_module(f"bayplan.cli.verbs.{VERBS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else "; see bay --help"
            raise click.UsageError(f'there is no verb "{args[0]}"{hint}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.command(
    cls=Verbs,
    no_args_is_help=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=list(shared_options()),
)
@click.pass_context
def bay(ctx: click.Context) -> None:
    """Run services on the hosts of a cluster, and see what happens and why."""
    ctx.ensure_object(Settings)


def main() -> None:
    """The console entry. Ends with 0, or the exit code of bayplan.model.errors; 2: wrong usage;
    130: interrupted."""
    # gRPC's core writes lines of its own to stderr; what matters reaches us as errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    _have_streams()
    sys.exit(run(sys.argv[1:]))


def _have_streams() -> None:
    """Standard streams that the caller closed lead nowhere, rather than into whatever is opened
    next: a connection to a controller could be descriptor 1."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = os.O_RDONLY if fd == 0 else os.O_WRONLY
            opened = os.open(os.devnull, mode)
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            setattr(sys, name, os.fdopen(fd, "r" if fd == 0 else "w", closefd=False))


def run(arguments: list[str]) -> int:
    """Run one command line; gives the exit code."""
    try:
        result: Any = bay.main(arguments, prog_name="bay", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BayplanError as error:
        return _failed(error)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 0
    except click.ClickException as error:
        message = error.format_message()
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        hint = f" (see {path} --help)" if path else ""
        _say(f"{message[:1].lower()}{message[1:]}".rstrip(".") + hint)
        return 2
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        # The reader has gone (`bay get | head`); nothing more can be said on stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"{where}{(error.strerror or str(error)).lower()}")
        return 1


def _failed(error: BayplanError) -> int:
    lines = str(error).split("\n")
    if len(lines) > 1:  # everything that is wrong with a spec, a line each
        print("\n".join(lines), file=sys.stderr)
        _say(f"{len(lines)} errors; nothing was changed")
    else:
        _say(lines[0])
    return error.exit_code


def _say(sentence: str) -> None:
    print(f"bay: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
