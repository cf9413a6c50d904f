# SPDX-License-Identifier: Apache-2.0
"""
``make demo`` and ``make ui``: the emulator and a real Airflow, started, watched, reported on and stopped again.

===================  ==================================================================================
:mod:`.processes`    starts commands in sessions of their own, stops whole trees, remembers them on disk
:mod:`.stack`        which commands, with which environment, and when they are ready
:mod:`.rest`         the few calls of Airflow's REST API, and of the emulator's control routes
:mod:`.connecting`   the connection, stored where a person sees it
:mod:`.keeping`      ports and secrets that ``make ui`` keeps
:mod:`.display`      what a person sees while a run goes on
:mod:`.report`       what came back, read from the run's XCom and the files it names
:mod:`.__main__`     the story, in order
===================  ==================================================================================
"""
