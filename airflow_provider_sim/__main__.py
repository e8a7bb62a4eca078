"""``python -m airflow_provider_sim``: the commands of ``airflow sim``, also for Airflow before 3.2."""

import argparse

from airflow_provider_sim.cli.definition import get_sim_cli_commands


def parser() -> argparse.ArgumentParser:
    [group] = get_sim_cli_commands()
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_sim", description=group.help)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in group.subcommands:
        subparser = subparsers.add_parser(command.name, help=command.help, description=command.help)
        for arg in command.args:
            arg.add_to_parser(subparser)
        subparser.set_defaults(func=command.func)
    return parser


if __name__ == "__main__":
    arguments = parser().parse_args()
    arguments.func(arguments)
