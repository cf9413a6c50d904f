# SPDX-License-Identifier: Apache-2.0
"""A connection's fields, read into settings; no I/O and no Airflow."""
