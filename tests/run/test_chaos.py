# SPDX-License-Identifier: Apache-2.0
"""A dozen of the schedules that ``make chaos`` plays 500 of."""

from __future__ import annotations

import time

import pytest

from tests.run.chaos import ROWS, Chaos, Worker, play
from tests.run.world import rows


@pytest.mark.parametrize("seed", [*range(11), 194])
def test_run_on_a_bad_day_pays_once_and_loses_nothing(gemini_batch_emulator, tmp_path, seed):
    assert play(gemini_batch_emulator, tmp_path, seed)["attempts"] >= 1


def test_answers_of_a_late_listing_are_reused_after_a_clear(world):
    world.emulator.script(mode="at_once")
    world.attempt(world.spec(), rows(ROWS))

    class Late(type(world.context([]).checkpoint)):
        def below(self, name):
            return Late(self.path(name), settle=0.0)

        def names(self):
            return [name for name in super().names() if not name.startswith("collected-")]

    late = Late(world.path("checkpoint"), settle=0.0)
    manifest = world.attempt(world.spec(), rows(ROWS), occasion="other", checkpoint=late)
    assert manifest["reused"] == ROWS
    assert world.rows_run() == ROWS


def test_lost_reply_behind_a_lagging_list_is_one_job(gemini_batch_emulator, tmp_path, monkeypatch):
    calm = Chaos(gemini_batch_emulator, tmp_path, 0, "blocking")
    gemini_batch_emulator.reset()
    gemini_batch_emulator.configure(listing_lag=55.0)
    gemini_batch_emulator.script(pending_seconds=600, running_seconds=60)
    gemini_batch_emulator.fault(
        match={"method": "POST", "path": "batchGenerateContent|batchPredictionJobs"}, action="close", when="after"
    )
    monkeypatch.setattr(time, "time", calm.now)
    manifest = calm.attempt(Worker(), "one")
    assert manifest["counts"] == {"succeeded": ROWS}
    assert gemini_batch_emulator.ledger()["totals"]["created"] == 3
