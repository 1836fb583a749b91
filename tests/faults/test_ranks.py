"""One process among two: killed, stopped beyond the others' patience, without room, slow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.recovery import assert_recovered
from tools.faults import evaluations, ranks
from tools.faults.evaluations import EvaluationWorkshop
from tools.faults.ranks import RankWorkshop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankWorkshop]:
    with closing(RankWorkshop(tmp_path_factory.mktemp("ranks"), "replicated")) as made:
        yield made


def test_a_rank_killed_at_random_resumes_to_the_same_bits(workshop: RankWorkshop) -> None:
    result = ranks.kill_at_random(workshop, 0, 5)
    assert_recovered(result)
    assert "was ended by SIGKILL" in result.printed


def test_ranks_end_with_their_launcher(workshop: RankWorkshop) -> None:
    assert_recovered(ranks.launcher_killed(workshop))


def test_a_rank_stopped_beyond_the_time_out_ends_the_run_with_one_line(
    workshop: RankWorkshop,
) -> None:
    assert_recovered(ranks.rank_stopped(workshop))


def test_the_full_disk_of_one_rank_ends_the_run_with_one_line(workshop: RankWorkshop) -> None:
    result = ranks.disk_full(workshop)
    assert_recovered(result)
    assert result.printed.startswith("error: checkpoint not written: ")


def test_a_slow_rank_is_waited_for(workshop: RankWorkshop) -> None:
    assert_recovered(ranks.rank_slow(workshop))


def test_one_process_of_an_evaluation_killed_at_random(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = EvaluationWorkshop(tmp_path_factory.mktemp("evaluation"))
    assert_recovered(evaluations.kill_at_random(made, 0, 1))
