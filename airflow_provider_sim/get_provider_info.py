"""Metadata of this provider for Airflow, without imports: Airflow reads it in every process."""


def get_provider_info() -> dict[str, object]:
    """Return the provider's metadata in the shape of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-sim",
        "name": "Sim",
        "description": "Run deployed `Sim <https://www.sim.ai>`__ workflows from a DAG and wait for their runs.",
        "integrations": [
            {
                "integration-name": "Sim",
                "external-doc-url": "https://docs.sim.ai",
                "tags": ["service"],
            }
        ],
        "operators": [
            {
                "integration-name": "Sim",
                "python-modules": [
                    "airflow_provider_sim.operators.sim",
                    "airflow_provider_sim.operators.batch",
                    "airflow_provider_sim.operators.runs",
                    "airflow_provider_sim.operators.deployments",
                    "airflow_provider_sim.operators.usage",
                ],
            }
        ],
        "sensors": [
            {"integration-name": "Sim", "python-modules": ["airflow_provider_sim.sensors.sim"]},
        ],
        "hooks": [{"integration-name": "Sim", "python-modules": ["airflow_provider_sim.hooks.sim"]}],
        "triggers": [
            {
                "integration-name": "Sim",
                "python-modules": [
                    "airflow_provider_sim.triggers.sim",
                    "airflow_provider_sim.triggers.batch",
                    "airflow_provider_sim.triggers.events",
                ],
            }
        ],
        "task-decorators": [
            {"name": "sim_workflow", "class-name": "airflow_provider_sim.decorators.sim.sim_workflow_task"}
        ],
        "cli": ["airflow_provider_sim.cli.definition.get_sim_cli_commands"],
        "notifications": ["airflow_provider_sim.notifications.sim.SimNotifier"],
        "extra-links": [
            "airflow_provider_sim.links.sim.SimRunLink",
            "airflow_provider_sim.links.sim.SimWorkflowLink",
            "airflow_provider_sim.links.sim.SimApprovalLink",
        ],
        "connection-types": [
            {
                "connection-type": "sim",
                "hook-class-name": "airflow_provider_sim.hooks.sim.SimHook",
                "hook-name": "Sim",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login"],
                    "relabeling": {"host": "Base URL", "password": "API key"},
                    "placeholders": {
                        "host": "https://www.sim.ai",
                        "port": "optional, as in 443 (the test of Airflow 3.3.2 needs it)",
                        "password": "sk-sim-… (leave both empty to use SIM_BASE_URL and SIM_API_KEY)",
                    },
                },
                "conn-fields": {
                    "workspace_id": {
                        "label": "Workspace ID",
                        "description": "Used for links into Sim's UI. Looked up once per workflow when empty.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "api_version": {
                        "label": "API version",
                        "description": "auto, v2 or legacy; auto detects whether the server has /api/v2 switched on.",
                        "schema": {"type": ["string", "null"], "enum": ["auto", "v2", "legacy"], "default": "auto"},
                    },
                    "timeout": {
                        "label": "Request timeout (s)",
                        "description": "Of all requests except sync executions. Default 30.",
                        "schema": {"type": ["number", "null"], "minimum": 0.1},
                    },
                    "verify": {
                        "label": "Verify TLS",
                        "description": "true, false, or the path of a CA bundle. Default true.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "max_retries": {
                        "label": "Retries per request",
                        "description": "Of idempotent requests and rejected starts. Default 3.",
                        "schema": {"type": ["integer", "null"], "minimum": 0},
                    },
                    "initial_delay": {
                        "label": "First retry delay (s)",
                        "description": "Unless Sim sends Retry-After. Default 1.",
                        "schema": {"type": ["number", "null"], "minimum": 0},
                    },
                    "max_delay": {
                        "label": "Longest retry delay (s)",
                        "description": "Upper limit of the growing delay. Default 30.",
                        "schema": {"type": ["number", "null"], "minimum": 0},
                    },
                    "backoff_multiplier": {
                        "label": "Backoff multiplier",
                        "description": "Factor by which the delay grows with each retry. Default 2.",
                        "schema": {"type": ["number", "null"], "minimum": 1},
                    },
                },
            }
        ],
    }
