# SPDX-License-Identifier: Apache-2.0
"""The answers of one job, judged and written as rows."""
