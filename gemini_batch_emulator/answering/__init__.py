# SPDX-License-Identifier: Apache-2.0
"""What the emulated models say: pure functions over plain JSON; the same request always gets the same answer."""
