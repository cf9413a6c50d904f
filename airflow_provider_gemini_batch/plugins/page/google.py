# SPDX-License-Identifier: Apache-2.0
"""Where Google shows a job: Vertex AI's console does; the Developer API has no page of a job."""

from __future__ import annotations

import re
from urllib.parse import quote

_JOB = re.compile(r"projects/([^/]+)/locations/([^/]+)/batchPredictionJobs/([^/]+)")


def google_url(job_name: str) -> str:
    """Return the address of a job in Google's console; empty where there is none."""
    found = _JOB.fullmatch(job_name)
    if found is None:
        return ""
    project, region, number = (quote(part, safe="") for part in found.groups())
    base = "https://console.cloud.google.com/vertex-ai"
    return f"{base}/locations/{region}/batch-predictions/{number}?project={project}"
