# SPDX-License-Identifier: Apache-2.0
"""``python -m airflow_provider_gemini_batch.emulator``: serve until interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from gemini_batch_emulator.limitations import LIMITATIONS
from gemini_batch_emulator.server import server_for

USAGE = """How to reach it:

One connection serves all example DAGs, and a DAG does not tell the difference to Google. As the Developer API:

  airflow connections add gemini_batch_default --conn-type gemini_batch \\
    --conn-host http://127.0.0.1:8086 --conn-password any-key

As Vertex AI:

  airflow connections add gemini_batch_default --conn-type gemini_batch \\
    --conn-host http://127.0.0.1:8086 --conn-extra '{"backend": "vertex_ai", "project": "any-project",
      "location": "us-central1", "storage_uri": "gs://emulator/airflow", "is_anonymous": true}'

`airflow dags test` runs triggers where Airflow looks for connections in the environment alone; there, set
AIRFLOW_CONN_GEMINI_BATCH_DEFAULT to

  {"conn_type": "gemini_batch", "host": "http://127.0.0.1:8086", "password": "any-key"}

or, with the extra as above, to {"conn_type": "gemini_batch", "host": "http://127.0.0.1:8086", "extra": {...}}.

To have a service account sign in, put the answer of this into the extra, as keyfile_dict instead of is_anonymous:

  curl -X POST http://127.0.0.1:8086/_emulator/service_accounts

There is one bucket, emulator. Another one is made by

  curl http://127.0.0.1:8086/storage/v1/b -d '{"name": "another"}'

The next job fails after

  curl http://127.0.0.1:8086/_emulator/jobs/script -d '{"script": {"end": {"state": "FAILED", "message": "No luck."}}}'

and in the next one a tenth of the rows have no answer after

  curl http://127.0.0.1:8086/_emulator/jobs/script -d '{"script": {"rows": [{"share": 0.1, "outcome": "error"}]}}'

More of that, faults and time: docs/emulator.md.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    arguments = argparse.ArgumentParser(
        prog="python -m airflow_provider_gemini_batch.emulator",
        description="An emulator of the Gemini Batch API: Developer API, Vertex AI batch jobs, the part of Cloud "
        "Storage they need and a token endpoint, on one port.",
        epilog=f"{USAGE}\nWhat it does not do:\n\n{LIMITATIONS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    arguments.add_argument("--port", type=int, default=8086, help="port, 0 picks a free one (default: %(default)s)")
    arguments.add_argument(
        "--speed", type=float, default=1.0, help="emulated seconds a real second (default: %(default)s)"
    )
    arguments.add_argument("--data-dir", help="where files are kept (default: a temporary directory)")
    arguments.add_argument("--seed", type=int, default=0, help="of ids and draws (default: %(default)s)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM."""
    arguments = parser().parse_args(argv)
    ended = threading.Event()
    # Both alike: a container is stopped by SIGTERM, a terminal by SIGINT, and neither may leave files behind.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server, state = server_for(
        host=arguments.host,
        port=arguments.port,
        speed=arguments.speed,
        data_dir=arguments.data_dir,
        seed=arguments.seed,
    )
    try:
        server.start()
    except OSError as error:
        state.close()
        sys.stderr.write(f"Cannot listen on {arguments.host}:{arguments.port}: {error}\n")
        return 1
    sys.stdout.write(f"Gemini Batch emulator: {server.url}\n")
    # Who starts this as a child reads the address from the first line, and would wait for it in a buffer.
    sys.stdout.flush()
    ended.wait()
    server.stop()
    state.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
