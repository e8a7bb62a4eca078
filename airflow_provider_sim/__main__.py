"""``python -m airflow_provider_sim``: the commands of ``airflow sim`` without Airflow's CLI."""

from __future__ import annotations

from airflow_provider_sim.cli.definition import parser


def main(arguments: list[str] | None = None) -> None:
    """Run a command, and exit with its code."""
    parsed = parser().parse_args(arguments)
    parsed.func(parsed)


if __name__ == "__main__":
    main()
