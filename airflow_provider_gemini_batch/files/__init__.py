# SPDX-License-Identifier: Apache-2.0
"""Local files and object storage."""
