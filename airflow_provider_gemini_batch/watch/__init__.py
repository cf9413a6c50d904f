# SPDX-License-Identifier: Apache-2.0
"""Waiting for many jobs at the cost of a few."""
