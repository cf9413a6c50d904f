# SPDX-License-Identifier: Apache-2.0
"""The prices that hold in this installation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.compat import conf

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.cost.prices import PriceList
    from airflow_provider_gemini_batch.run.money import Prices


def price_list() -> PriceList:
    """
    Return the price list, with the user's own prices of ``[gemini_batch] prices_path`` over ours.

    :raises ConfigurationError: If that file cannot be read.
    """
    from airflow_provider_gemini_batch.cost.prices import PriceList, read_price_file
    from airflow_provider_gemini_batch.files.paths import open_read

    place = conf.get("gemini_batch", "prices_path", fallback="") or ""
    if not place:
        return PriceList()
    with open_read(place) as file:
        return PriceList(read_price_file(file.read().decode(), place))


def counts_tokens() -> bool:
    """Say whether tokens are counted (``countTokens``) before a job is estimated: ``[gemini_batch] count_tokens``."""
    return bool(conf.getboolean("gemini_batch", "count_tokens", fallback=True))


def run_prices() -> Prices:
    """
    Return the same as a run asks it.

    :raises ConfigurationError: If the user's file cannot be read.
    """
    from airflow_provider_gemini_batch.cost.estimate import RunPrices

    return RunPrices(price_list())
