"""``airflow sim …`` and ``python -m airflow_provider_sim …``."""
