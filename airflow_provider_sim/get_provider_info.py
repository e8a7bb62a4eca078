"""Metadata of this provider for Airflow, without imports: Airflow reads it in every process."""

_NUMBER, _INTEGER, _TEXT = ({"type": [kind, "null"]} for kind in ("number", "integer", "string"))

CONNECTION_FIELDS = {
    "workspace_id": ("Workspace ID", "Used for links into Sim's UI. Looked up once per workflow when empty.", _TEXT),
    "api_version": (
        "API version",
        "auto, v2 or legacy; auto detects whether the server has /api/v2 switched on.",
        {**_TEXT, "enum": ["auto", "v2", "legacy"], "default": "auto"},
    ),
    "timeout": (
        "Request timeout (s)",
        "Of all requests except sync executions. Default 30.",
        {**_NUMBER, "minimum": 0.1},
    ),
    "verify": ("Verify TLS", "true, false, or the path of a CA bundle. Default true.", _TEXT),
    "max_retries": (
        "Retries per request",
        "Of idempotent requests and rejected starts. Default 3.",
        {**_INTEGER, "minimum": 0},
    ),
    "initial_delay": ("First retry delay (s)", "Unless Sim sends Retry-After. Default 1.", {**_NUMBER, "minimum": 0}),
    "max_delay": (
        "Longest retry delay (s)",
        "Upper limit of the growing delay. Default 30.",
        {**_NUMBER, "minimum": 0},
    ),
    "backoff_multiplier": (
        "Backoff multiplier",
        "Factor by which the delay grows with each retry. Default 2.",
        {**_NUMBER, "minimum": 1},
    ),
}
"""Label, description and schema of each extra."""

UI_FIELD_BEHAVIOUR = {
    "hidden-fields": ["schema", "login"],
    "relabeling": {"host": "Base URL", "password": "API key"},
    "placeholders": {
        "host": "https://www.sim.ai",
        "port": "optional, as in 443 (the test of Airflow 3.3.2 needs it)",
        "password": "sk-sim-… (leave both empty to use SIM_BASE_URL and SIM_API_KEY)",
    },
}

_CONNECTION_TYPE = {
    "connection-type": "sim",
    "hook-class-name": "airflow_provider_sim.hooks.sim.SimHook",
    "hook-name": "Sim",
    "ui-field-behaviour": UI_FIELD_BEHAVIOUR,
    "conn-fields": {
        name: {"label": label, "description": description, "schema": schema}
        for name, (label, description, schema) in CONNECTION_FIELDS.items()
    },
}


def _modules(kind: str, *names: str) -> list[dict[str, object]]:
    return [{"integration-name": "Sim", "python-modules": [f"airflow_provider_sim.{kind}.{name}" for name in names]}]


def get_provider_info() -> dict[str, object]:
    """Return the provider's metadata in the shape of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-sim",
        "name": "Sim",
        "description": "Run deployed `Sim <https://www.sim.ai>`__ workflows from a DAG and wait for their runs.",
        "integrations": [{"integration-name": "Sim", "external-doc-url": "https://docs.sim.ai", "tags": ["service"]}],
        "operators": _modules("operators", "sim", "batch", "runs", "deployments", "usage"),
        "sensors": _modules("sensors", "sim"),
        "hooks": _modules("hooks", "sim"),
        "triggers": _modules("triggers", "sim", "batch", "events"),
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
        "connection-types": [_CONNECTION_TYPE],
    }
