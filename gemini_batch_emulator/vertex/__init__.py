# SPDX-License-Identifier: Apache-2.0
"""Vertex AI: batch prediction jobs, and the models behind them."""
