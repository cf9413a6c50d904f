# SPDX-License-Identifier: Apache-2.0
"""Rows in and answers out: what they may look like and what they mean; streaming, no I/O."""
