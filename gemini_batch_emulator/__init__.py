# SPDX-License-Identifier: Apache-2.0
"""An emulator of the Gemini Batch API on both backends, for demos and tests without a key."""
