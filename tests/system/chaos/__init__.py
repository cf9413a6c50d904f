# SPDX-License-Identifier: Apache-2.0
"""Fault injection: seeded schedules of everything that goes wrong, and what they cost."""
