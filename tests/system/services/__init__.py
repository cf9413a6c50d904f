# SPDX-License-Identifier: Apache-2.0
"""
What suites on a real Airflow share: its services and its members.

==================  ==========================================================================
:mod:`.postgres`    a PostgreSQL of our own
:mod:`.redis`       a Redis of our own
:mod:`.ledger`      what the emulator's ledger says
:mod:`.control`     calls of Airflow's REST API and of the emulator that the demo does not make
:mod:`.members`     the demo's processes on PostgreSQL, some of which come and go
:mod:`.hostname`    names for what would run on hosts of its own
==================  ==========================================================================
"""
