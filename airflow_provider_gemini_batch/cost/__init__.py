# SPDX-License-Identifier: Apache-2.0
"""What requests cost, before and after: models and prices as dated data, estimates, limits; no I/O."""
