# SPDX-License-Identifier: Apache-2.0
"""What we take from Airflow's task context."""
