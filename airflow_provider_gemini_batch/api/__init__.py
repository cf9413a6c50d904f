# SPDX-License-Identifier: Apache-2.0
"""What the service means: requests, replies, states and decisions, without Airflow, HTTP libraries or clocks."""
