"""Apache Airflow provider for Sim (sim.ai). Imports nothing: Airflow loads this package in every process."""

__version__ = "0.1.0"
