"""Metadata of this provider for Airflow, without imports: Airflow reads it in every process."""


def _field(label: str, description: str, kind: str = "string", **schema: object) -> dict[str, object]:
    return {"label": label, "description": description, "schema": {"type": [kind, "null"], **schema}}


def _number(label: str, description: str, minimum: float, kind: str = "number") -> dict[str, object]:
    return _field(label, description, kind, minimum=minimum)


CONNECTION_TYPE: dict[str, object] = {
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
        "workspace_id": _field("Workspace ID", "Used for links into Sim's UI. Looked up once per workflow when empty."),
        "api_version": _field(
            "API version",
            "auto, v2 or legacy; auto detects whether the server has /api/v2 switched on.",
            enum=["auto", "v2", "legacy"],
            default="auto",
        ),
        "timeout": _number("Request timeout (s)", "Of all requests except sync executions. Default 30.", 0.1),
        "verify": _field("Verify TLS", "true, false, or the path of a CA bundle. Default true."),
        "max_retries": _number(
            "Retries per request", "Of idempotent requests and rejected starts. Default 3.", 0, "integer"
        ),
        "initial_delay": _number("First retry delay (s)", "Unless Sim sends Retry-After. Default 1.", 0),
        "max_delay": _number("Longest retry delay (s)", "Upper limit of the growing delay. Default 30.", 0),
        "backoff_multiplier": _number("Backoff multiplier", "Growth of the delay with each retry. Default 2.", 1),
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
            f"airflow_provider_sim.links.sim.{name}" for name in ("SimRunLink", "SimWorkflowLink", "SimApprovalLink")
        ],
        "connection-types": [CONNECTION_TYPE],
    }
