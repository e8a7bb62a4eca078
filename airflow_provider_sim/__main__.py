"""``python -m airflow_provider_sim``: the commands of ``airflow sim``, for an Airflow whose CLI takes none."""

from __future__ import annotations

from airflow_provider_sim.cli.definition import parser


def main(arguments: list[str] | None = None) -> None:
    """Carry a command out.

    :raises SystemExit: with what came of it.
    """
    given = parser().parse_args(arguments)
    given.func(given)


if __name__ == "__main__":
    main()
