"""Commands and options, for Airflow's parser and that of ``python -m``; imported by every ``airflow`` command."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class Option:
    """An argument: its flags, and its settings for argparse."""

    flags: tuple[str, ...]
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """A command, implemented by the function of this name in :mod:`.commands`."""

    name: str
    help: str
    options: tuple[Option, ...]

    @property
    def func(self) -> Callable[[Any], None]:
        """The implementation, imported when called."""

        def call(arguments: Any) -> None:
            getattr(import_module("airflow_provider_sim.cli.commands"), self.name)(arguments)

        call.__name__ = self.name
        return call


def _option(*flags: str, **settings: Any) -> Option:
    return Option(flags, settings)


_COMMON = (
    _option("--conn-id", help="Airflow connection (default: SIM_API_KEY with SIM_BASE_URL if set, else sim_default)"),
    # Airflow logs to stderr if a command has an argument of this name.
    _option("--json", dest="output", action="store_true", help="print JSON, for scripts"),
)
_WORKFLOW = _option("workflow_id", help="last part of the workflow's URL in Sim's editor")
_RUN = _option("run_id", help="ID of the run")

COMMANDS = (
    Command("check", "Test the connection and show the account and its remaining limits", _COMMON),
    Command(
        "run",
        "Run a workflow and wait until it finishes; Ctrl-C cancels the run",
        (
            _WORKFLOW,
            _option("--input", metavar="JSON", help="the input, or @FILE with it"),
            _option("--async", dest="async_execution", action="store_true", help="let Sim queue the run"),
            _option(
                "--stream",
                action="store_true",
                help="print selected outputs as they arrive",
            ),
            _option("--select", action="append", metavar="BLOCK.PATH", help="with --stream: which outputs; repeatable"),
            _option("--no-wait", action="store_true", help="start an async run, print its ID and exit"),
            _option("--timeout", type=float, metavar="SECONDS", help="cancel the run after this time"),
            _option(
                "--poll-interval", type=float, default=2.0, metavar="SECONDS", help="time between polls (default: 2)"
            ),
            *_COMMON,
        ),
    ),
    Command("status", "Show a run, with its output if it is completed", (_WORKFLOW, _RUN, *_COMMON)),
    Command(
        "watch",
        "Show the latest runs of a workspace or a workflow until Ctrl-C",
        (
            _option("--workflow", metavar="ID", help="only this workflow's runs"),
            _option("--workspace", metavar="ID", help="default: the connection's, or the only one of the key"),
            _option("--limit", type=int, default=20, help="how many runs (default: 20)"),
            _option("--interval", type=float, default=5.0, metavar="SECONDS", help="time between polls (default: 5)"),
            _option("--once", action="store_true", help="print the list once; the default if stdout is not a terminal"),
            *_COMMON,
        ),
    ),
    Command("cancel", "Cancel a run and show whether it is cancelled", (_WORKFLOW, _RUN, *_COMMON)),
)
_HELP = "Run, watch and cancel Sim workflows"


def get_sim_cli_commands() -> list[Any]:
    """Return the command group ``airflow sim`` for Airflow."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    actions = [
        ActionCommand(
            name=command.name,
            help=command.help,
            func=command.func,
            args=[Arg(flags=option.flags, **option.settings) for option in command.options],
        )
        for command in COMMANDS
    ]
    return [GroupCommand(name="sim", help=_HELP, subcommands=actions)]


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m airflow_provider_sim``."""
    main = argparse.ArgumentParser(prog="python -m airflow_provider_sim", description=_HELP)
    commands = main.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = commands.add_parser(command.name, help=command.help, description=command.help)
        for option in command.options:
            subparser.add_argument(*option.flags, **option.settings)
        subparser.set_defaults(func=command.func)
    return main
