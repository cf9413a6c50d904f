# SPDX-License-Identifier: Apache-2.0
"""
Twenty mapped runs on an Airflow as people run it: Celery, two workers, two triggerers, PostgreSQL, Redis.

==================  ==========================================================================================
:mod:`.stack`       the processes, with the commands of ``docker-compose.yaml``
:mod:`.dags`        the DAGs
:mod:`.work`        the rows of one DAG run, where its outputs lie, and what is wrong with them
:mod:`.story`       what befalls each DAG run
:mod:`.__main__`    ``run`` leaves the cluster to a person, ``test`` tells the story and judges
==================  ==========================================================================================
"""
