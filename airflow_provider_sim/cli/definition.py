"""Commands of ``airflow sim``; imported by every ``airflow`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.cli.cli_config import ActionCommand, GroupCommand

_WORKFLOW = "ID of the workflow (the last part of its URL in Sim's editor), or its name if no other has it"


def get_sim_cli_commands() -> list[GroupCommand]:
    """Return the command group ``airflow sim``."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand, lazy_load_command

    def command(name: str, help: str, *args: Any) -> ActionCommand:
        function = lazy_load_command(f"airflow_provider_sim.cli.commands.{name}")
        return ActionCommand(name=name, help=help, func=function, args=[*args, *common])

    common = (
        Arg(("--conn-id",), help="Airflow connection (default: SIM_API_KEY if set, else sim_default)"),
        # Airflow logs to stderr if a command has an argument with the name "output".
        Arg(("--json",), dest="output", action="store_true", help="print JSON, for scripts"),
    )
    workflow = Arg(("workflow_id",), help=_WORKFLOW)
    optional_workflow = Arg(("workflow_id",), nargs="?", help=_WORKFLOW)
    run_id = Arg(("run_id",), help="ID of the run")
    commands = [
        command("check", "Test the connection; show the account, its limits, and a workflow", optional_workflow),
        command("workflows", "List the workflows, with the inputs that they declare"),
        command(
            "run",
            "Run a workflow and wait for it; Ctrl-C cancels the run",
            workflow,
            Arg(("--input",), metavar="JSON", help="the input, or @FILE with it"),
            Arg(("--async",), dest="async_execution", action="store_true", help="queue the run in Sim"),
            Arg(("--stream",), action="store_true", help="log selected outputs as they arrive"),
            Arg(("--select",), action="append", metavar="BLOCK.PATH", help="an output to stream; repeatable"),
            Arg(("--no-wait",), action="store_true", help="start an async run, print its ID and exit"),
            Arg(("--timeout",), type=float, help="seconds after which the run is cancelled"),
            Arg(("--poll-interval",), type=float, help="seconds between polls (default: a tenth of the run's age)"),
        ),
        command("status", "Show a run, with its output if it is completed", workflow, run_id),
        command("cancel", "Cancel a run and show whether it is cancelled", workflow, run_id),
    ]
    return [GroupCommand(name="sim", help="List, run and cancel Sim workflows", subcommands=commands)]
