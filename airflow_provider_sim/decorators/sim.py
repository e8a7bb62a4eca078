"""``@task.sim_workflow``: a task that runs a workflow with a function's return value as the input."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    SET_DURING_EXECUTION,
    DecoratedOperator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.task.input import copy_files, input_fields

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, TaskDecorator


class _SimWorkflowDecoratedOperator(DecoratedOperator, SimExecuteWorkflowOperator):
    """Runs a workflow with a function's return value as the input.

    The function is called at the start of each try, also of a retry that re-attaches to a run, but not after a
    deferral. Templates in its return value, which may come from an untrusted source, aren't rendered.
    """

    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *SimExecuteWorkflowOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **SimExecuteWorkflowOperator.template_fields_renderers,
    }
    custom_operator_name = "@task.sim_workflow"
    overwrite_rtif_after_execution = True
    xcom_push = None  # read, and not used, by DecoratedOperator.execute of Airflow 3.0, whose operators don't have it

    def __init__(
        self, *, op_args: Collection[Any] | None = None, op_kwargs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        files = {"op_args": copy_files(op_args), "op_kwargs": copy_files(op_kwargs)}
        super().__init__(**files, input=SET_DURING_EXECUTION, **kwargs)

    def execute(self, context: Context) -> Any:
        context_merge(context, self.op_kwargs)
        arguments = determine_kwargs(self.python_callable, self.op_args, context)
        # Airflow renders self.input in the UI even if this raises, and can't render one that contains itself.
        self.input = input_fields(self.python_callable(*self.op_args, **arguments), workflow_id=self.workflow_id)
        return super().execute(context)


def sim_workflow_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Turn a function into a task that runs a workflow with its return value, and returns the workflow's output.

    :param python_callable: the function.
    :param multiple_outputs: push each field of the output as an XCom as well. Not inferred from the function's
        annotations, which describe the input.
    :param kwargs: the arguments of :class:`~airflow_provider_sim.operators.sim.SimExecuteWorkflowOperator` except
        ``input``, and those of every task.
    :raises SimInputError: an argument is invalid.
    """
    # A mapped task is instantiated at run time only.
    checked = {**kwargs, "multiple_outputs": multiple_outputs}
    _SimWorkflowDecoratedOperator.check(checked, templated=_SimWorkflowDecoratedOperator.template_fields)
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=bool(multiple_outputs),
        decorated_operator_class=_SimWorkflowDecoratedOperator,
        **kwargs,
    )
