# SPDX-License-Identifier: Apache-2.0
"""A service that behaves as badly as its documentation allows, and the table of what that costs."""
