# SPDX-License-Identifier: Apache-2.0
"""The old address of :mod:`gemini_batch_emulator`."""
