# SPDX-License-Identifier: Apache-2.0
"""The retry policy: hopeless errors fail at once, quota is waited for, the rest is the task's own affair."""

from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_provider_gemini_batch import compat, errors

if not hasattr(compat, "RetryPolicy"):
    pytest.skip("retry policies came with Airflow 3.3", allow_module_level=True)

from airflow_provider_gemini_batch.compat import DAG
from airflow_provider_gemini_batch.operators import CreateBatchOperator
from airflow_provider_gemini_batch.retry_policy import GeminiBatchRetryPolicy


def decided(error: BaseException) -> tuple[str, timedelta | None]:
    decision = GeminiBatchRetryPolicy().evaluate(error, 1, 3)
    return decision.action.value, decision.retry_delay


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigurationError("no model"),
        errors.EmptyInputError("no rows"),
        errors.RequestRejectedError("bad schema", status=400),
        errors.AuthError("the key was refused", status=400, reason="API_KEY_INVALID"),
        errors.JobConflictError("other input"),
    ],
)
def test_what_a_retry_cannot_change_fails_at_once(error: Exception) -> None:
    assert decided(error) == ("fail", None)


def test_quota_is_retried_late() -> None:
    assert decided(errors.RateLimitedError("429", retry_after=30)) == ("retry", timedelta(hours=1))


def test_quota_is_retried_as_late_as_the_service_asks() -> None:
    assert decided(errors.RateLimitedError("429", retry_after=7200)) == ("retry", timedelta(hours=2))


def test_quota_is_seen_behind_another_error() -> None:
    error = errors.SubmitError("the quota never freed up")
    error.__cause__ = errors.RateLimitedError("429")
    assert decided(error) == ("retry", timedelta(hours=1))


@pytest.mark.parametrize(
    "error",
    [
        errors.ServerError("503", status=503),
        errors.TransportError("lost"),
        errors.JobFailedError("failed"),
        errors.AuthError("no token to be had"),
        RuntimeError("of somebody else"),
    ],
)
def test_everything_else_is_left_to_the_task(error: Exception) -> None:
    assert decided(error) == ("default", None)


def test_a_policy_survives_serialisation() -> None:
    policy = GeminiBatchRetryPolicy(quota_delay=60)
    assert GeminiBatchRetryPolicy.deserialize(policy.serialize()).quota_delay == timedelta(minutes=1)


def test_a_dag_with_the_policy_is_serialised() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("with_policy", schedule=None, default_args={"retry_policy": GeminiBatchRetryPolicy()}) as dag:
        CreateBatchOperator(task_id="create", model="gemini-3.5-flash-lite", inlined_requests=[{"prompt": "a"}])
    again = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    assert again.get_task("create").has_retry_policy is True
