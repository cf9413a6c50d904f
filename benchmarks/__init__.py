# SPDX-License-Identifier: Apache-2.0
"""Measures of speed and memory, beside the official provider and the physical limit."""
