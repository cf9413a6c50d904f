# SPDX-License-Identifier: Apache-2.0
"""
One job billed for one piece of work, through crashes of a real Airflow on PostgreSQL with two triggerers.

==================  ================================================================================================
:mod:`.cases`       what is tried: one DAG a case, and what is to come of it
:mod:`.dags`        the DAGs, made from the cases
:mod:`.scripts`     what befalls each case, step by step
:mod:`.world`       what both Airflow and the emulator say at a moment, and how one interferes
:mod:`.verdict`     the ledger against what was wanted
:mod:`.stack`       the demo's processes on PostgreSQL, with triggerers that come and go
:mod:`.__main__`    the story, in order
==================  ================================================================================================
"""
