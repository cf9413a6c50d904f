# SPDX-License-Identifier: Apache-2.0
"""
Fresh secrets for an Airflow.

``make env`` writes them to ``.env`` for ``docker-compose.yaml``; the demo keeps them in memory.

Standard library only: ``make env`` runs before anything is installed.
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def fresh() -> dict[str, str]:
    """Return new secrets by the names that ``docker-compose.yaml`` asks for."""
    return {
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "AIRFLOW_FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW_JWT_SECRET": secrets.token_hex(48),
        "AIRFLOW_API_SECRET_KEY": secrets.token_hex(32),
    }


def write_env(path: Path) -> bool:
    """Write the secrets to *path*, readable by its owner alone; False, and nothing done, if it exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as out:
        out.writelines(f"{name}={value}\n" for name, value in fresh().items())
    return True


if __name__ == "__main__":
    written = write_env(ROOT / ".env")
    sys.stdout.write("Wrote .env with fresh secrets.\n" if written else "Kept the .env that is there.\n")
