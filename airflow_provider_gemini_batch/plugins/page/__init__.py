# SPDX-License-Identifier: Apache-2.0
"""The page inside Airflow: a task's run and answers, the jobs of a connection, spend."""
