# SPDX-License-Identifier: Apache-2.0
"""One job from request to verdict, as flows and tables that do no I/O of their own."""
