"""``python -m airflow_provider_sim``: the commands of ``airflow sim`` without Airflow's CLI."""

from airflow_provider_sim.cli.definition import parser

if __name__ == "__main__":
    arguments = parser().parse_args()
    arguments.func(arguments)
