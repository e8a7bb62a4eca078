"""Sim over HTTP: a blocking and an asyncio client. Knows no DAG, no task and no Airflow connection."""
