# SPDX-License-Identifier: Apache-2.0
"""Prints the extra of each asset event in the database, as a JSON list."""

from __future__ import annotations

import json


def main() -> None:
    """Print the extras."""
    from airflow.utils.session import create_session
    from sqlalchemy import select

    try:
        from airflow.models.asset import AssetEvent
    except ImportError:  # before Airflow 3
        from airflow.models.dataset import DatasetEvent as AssetEvent  # type: ignore[no-redef]
    with create_session() as session:
        print(json.dumps(list(session.scalars(select(AssetEvent.extra)))))


if __name__ == "__main__":
    main()
