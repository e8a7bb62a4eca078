"""Commands and options, for Airflow's parser and that of ``python -m``; imported by every ``airflow`` command."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class Command(NamedTuple):
    """A command, implemented by the function of this name in :mod:`.commands`; its options are argparse's, by flag."""

    name: str
    help: str
    options: dict[str, dict[str, Any]]

    @property
    def func(self) -> Callable[[Any], None]:
        """The implementation, imported when called."""
        return lambda arguments: getattr(import_module("airflow_provider_sim.cli.commands"), self.name)(arguments)


_SECONDS = {"type": float, "metavar": "SECONDS"}
_COMMON: dict[str, dict[str, Any]] = {
    "--conn-id": {"help": "Airflow connection (default: SIM_API_KEY with SIM_BASE_URL if set, else sim_default)"},
    # Airflow logs to stderr if a command has an argument with the name "output".
    "--json": {"dest": "output", "action": "store_true", "help": "print JSON, for scripts"},
}
_WORKFLOW_HELP = "ID of the workflow (the last part of its URL in Sim's editor), or its name if no other has it"
_WORKFLOW: dict[str, dict[str, Any]] = {"workflow_id": {"help": _WORKFLOW_HELP}}
_OPTIONAL_WORKFLOW: dict[str, dict[str, Any]] = {"workflow_id": {"nargs": "?", "help": _WORKFLOW_HELP}}
_RUN = {"run_id": {"help": "ID of the run"}}
_RUN_OPTIONS: dict[str, dict[str, Any]] = {
    "--input": {"metavar": "JSON", "help": "the input, or @FILE with it"},
    "--async": {"dest": "async_execution", "action": "store_true", "help": "let Sim queue the run"},
    "--stream": {"action": "store_true", "help": "print selected outputs as they arrive"},
    "--select": {"action": "append", "metavar": "BLOCK.PATH", "help": "with --stream: which outputs; repeatable"},
    "--no-wait": {"action": "store_true", "help": "start an async run, print its ID and exit"},
    "--timeout": {**_SECONDS, "help": "cancel the run after this time"},
    "--poll-interval": {**_SECONDS, "help": "time between polls (default: a tenth of the run's age, 1 to 30)"},
}
COMMANDS = (
    Command("check", "Test the connection; show the account, its limits, and a workflow", _OPTIONAL_WORKFLOW | _COMMON),
    Command("workflows", "List the workflows, with the inputs that they declare", _COMMON),
    Command("run", "Run a workflow and wait for it; Ctrl-C cancels the run", _WORKFLOW | _RUN_OPTIONS | _COMMON),
    Command("status", "Show a run, with its output if it is completed", _WORKFLOW | _RUN | _COMMON),
    Command("cancel", "Cancel a run and show whether it is cancelled", _WORKFLOW | _RUN | _COMMON),
)
_HELP = "List, run and cancel Sim workflows"


def get_sim_cli_commands() -> list[Any]:
    """Return the command group ``airflow sim`` for Airflow."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    actions = [
        ActionCommand(
            name=command.name,
            help=command.help,
            func=command.func,
            args=[Arg(flags=(flag,), **settings) for flag, settings in command.options.items()],
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
        for flag, settings in command.options.items():
            subparser.add_argument(flag, **settings)
        subparser.set_defaults(func=command.func)
    return main
