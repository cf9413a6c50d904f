# SPDX-License-Identifier: Apache-2.0
"""Rows in, table out: a run asks each row once, over as many jobs and rounds as it takes, and writes typed tables."""
