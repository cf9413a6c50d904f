# SPDX-License-Identifier: Apache-2.0
"""The Gemini Developer API: requests made, replies read."""
