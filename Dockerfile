# SPDX-License-Identifier: Apache-2.0
# The provider, built as a wheel and installed into Airflow's own image. Used by docker-compose.yaml.
ARG AIRFLOW_VERSION=3.3.2

FROM apache/airflow:${AIRFLOW_VERSION} AS build
COPY --chown=airflow:root pyproject.toml hatch_build.py README.md LICENSE /tmp/provider/
COPY --chown=airflow:root airflow_provider_gemini_batch /tmp/provider/airflow_provider_gemini_batch
COPY --chown=airflow:root gemini_batch_emulator /tmp/provider/gemini_batch_emulator
COPY --chown=airflow:root example_dags /tmp/provider/example_dags
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /tmp/wheels /tmp/provider

FROM apache/airflow:${AIRFLOW_VERSION}
ARG AIRFLOW_VERSION
COPY --from=build /tmp/wheels /tmp/wheels
# The folder is made here so that the volume mounted there belongs to Airflow's user.
# Naming Airflow keeps pip from moving it to another version.
RUN pip install --no-cache-dir "apache-airflow==${AIRFLOW_VERSION}" /tmp/wheels/*.whl \
    && mkdir -p /opt/airflow/gemini_batch
