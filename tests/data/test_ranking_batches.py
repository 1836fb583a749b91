"""The order of batches: properties for random sets, weights, ranks and resume points."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vqr1.data.ranking_batches import RankingBatchSampler, RankingPlan, permutation, plan_epoch
from vqr1.errors import ConfigError

SIZES = st.dictionaries(
    st.sampled_from(["kadid", "tid", "koniq", "spaq"]), st.integers(1, 60), min_size=1, max_size=4
)


@st.composite
def plans(draw: st.DrawFn, weighted: bool | None = None) -> RankingPlan:
    sizes = draw(SIZES)
    use_weights = draw(st.booleans()) if weighted is None else weighted
    weights = {name: draw(st.floats(0.1, 10)) for name in sizes} if use_weights else None
    return RankingPlan(
        seed=draw(st.integers(0, 1000)),
        sizes=sizes,
        batch_size=draw(st.integers(1, 9)),
        world_size=draw(st.integers(1, 4)),
        weights=weights,
        last_batch=draw(st.sampled_from(["drop", "fill"])),
    )


@given(plan=plans(), epoch=st.integers(0, 5))
def test_every_rank_ranks_the_same_set_in_each_step(plan: RankingPlan, epoch: int) -> None:
    ranks = [plan_epoch(plan, epoch, rank) for rank in range(plan.world_size)]
    assert {len(batches) for batches in ranks} == {plan.epoch_length()}
    for step in zip(*ranks, strict=True):
        assert len({batch.dataset for batch in step}) == 1
        size = plan.sizes[step[0].dataset]
        positions = [position for batch in step for position in batch.positions]
        assert all(0 <= position < size for position in positions)
        counts = [len(batch.positions) for batch in step]
        assert max(counts) - min(counts) <= 1
        assert {batch.step for batch in step} == {step[0].step}
        # Nobody gets an image that the step has already, except where a process would have none.
        assert len(set(positions)) == len(step[0].step) == min(size, plan.global_batch)
        assert len(positions) == max(len(step[0].step), plan.world_size)
        if size >= plan.global_batch:
            assert set(counts) == {plan.batch_size}
        least = plan.fewest_images(step[0].dataset, within_process=True)
        assert least == min(counts)


@given(plan=plans(weighted=False), epoch=st.integers(0, 5))
def test_an_epoch_visits_every_image_once(plan: RankingPlan, epoch: int) -> None:
    visits: dict[str, Counter[int]] = {name: Counter() for name in plan.sizes}
    for rank in range(plan.world_size):
        for batch in plan_epoch(plan, epoch, rank):
            visits[batch.dataset].update(batch.positions)
    for name, size in plan.sizes.items():
        rest = size % plan.global_batch
        if size < plan.global_batch:
            assert len(visits[name]) == size
        elif plan.last_batch == "drop":
            assert len(visits[name]) == size - rest
            assert set(visits[name].values()) == {1}
        else:
            assert len(visits[name]) == size
            repeated = sum(count - 1 for count in visits[name].values())
            assert repeated == (plan.global_batch - rest if rest else 0)
            assert max(visits[name].values()) <= 2


@given(plan=plans())
def test_number_of_processes_does_not_change_the_pools(plan: RankingPlan) -> None:
    # Fewer images than processes: some get an image that another has too.
    assume(min(plan.sizes.values()) >= plan.world_size)
    alone = replace(plan, batch_size=plan.global_batch, world_size=1)
    ranks = [plan_epoch(plan, 1, rank) for rank in range(plan.world_size)]
    pools = [
        (step[0].dataset, sum((batch.positions for batch in step), ()))
        for step in zip(*ranks, strict=True)
    ]
    assert pools == [(batch.dataset, batch.positions) for batch in plan_epoch(alone, 1)]


@given(plan=plans(), epochs=st.integers(1, 3), data=st.data())
def test_resume_continues_the_same_sequence(
    plan: RankingPlan, epochs: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, plan.world_size - 1))
    whole = [batch for epoch in range(epochs) for batch in plan_epoch(plan, epoch, rank)]
    stop = data.draw(st.integers(0, len(whole)))
    sampler = RankingBatchSampler(plan, rank)
    seen = []
    while len(seen) < stop:
        for batch in sampler:
            seen.append(batch)
            sampler.consumed()
            if len(seen) == stop:
                break
    state = sampler.state_dict()
    resumed = RankingBatchSampler(plan, rank)
    resumed.load_state_dict(state)
    while len(seen) < len(whole):
        for batch in resumed:
            seen.append(batch)
            resumed.consumed()
    assert seen == whole


@pytest.mark.medium
@given(plan=plans(weighted=True))
def test_weights_share_the_batches_and_use_each_set_evenly(plan: RankingPlan) -> None:
    assert plan.weights is not None
    counts = plan.epoch_batches()
    natural = sum(plan.pass_batches(name) for name in plan.sizes)
    assert plan.epoch_length() == natural
    if natural >= len(plan.sizes):
        assert min(counts.values()) >= 1
    total = sum(plan.weights.values())
    if all(natural * weight / total >= 1 for weight in plan.weights.values()):
        for name, count in counts.items():
            assert abs(count - natural * plan.weights[name] / total) < 1
    # Over epochs, the steps of a set run through its passes without a gap.
    steps: dict[str, list[tuple[int, ...]]] = {name: [] for name in plan.sizes}
    for epoch in range(3):
        for batch in plan_epoch(replace(plan, batch_size=plan.global_batch, world_size=1), epoch):
            steps[batch.dataset].append(batch.positions)
    for name, taken in steps.items():
        passes = [plan.global_positions(name, number) for number in range(len(taken) + 1)]
        stream = [tuple(step) for one_pass in passes for step in one_pass]
        assert taken == stream[: len(taken)]


def test_sets_alternate_in_proportion() -> None:
    plan = RankingPlan(0, {"large": 80, "small": 20}, batch_size=10)
    order = [batch.dataset for batch in plan_epoch(plan, 0)]
    # 8 batches at (j + 1/2)/8 and 2 at 1/4 and 3/4: between batches 2 and 3, and 6 and 7.
    assert order == ["large"] * 2 + ["small"] + ["large"] * 4 + ["small"] + ["large"] * 2


def test_small_sets_are_dealt_without_copies() -> None:
    # 5 images of a step of 8 on 3 processes: 5 * 1 // 3 = 1, 5 * 2 // 3 = 3, so 1, 2 and 2.
    plan = RankingPlan(0, {"a": 5}, batch_size=3, world_size=3)
    ranks = [plan_epoch(plan, 0, rank) for rank in range(3)]
    assert [len(batches[0].positions) for batches in ranks] == [1, 2, 2]
    assert sorted(p for batches in ranks for p in batches[0].positions) == [0, 1, 2, 3, 4]
    assert plan.fewest_images("a", within_process=False) == 5
    assert plan.fewest_images("a", within_process=True) == 1
    # 2 images on 3 processes: one process has none of its own and gets another's.
    few = replace(plan, sizes={"a": 2})
    dealt = [plan_epoch(few, 0, rank)[0].positions for rank in range(3)]
    assert [len(positions) for positions in dealt] == [1, 1, 1]
    assert len(set(dealt)) == 2
    # The last batch of 7 images in steps of 5, filled up: the 2 that are left and the pass's first.
    (whole, filled) = RankingPlan(0, {"a": 7}, 5, last_batch="fill").global_positions("a", 0)
    assert len(set(filled)) == 5
    assert filled[2:] == whole[:3]


def test_hand_computed_counts() -> None:
    # 25 images, G = 2 x 5 = 10: two full steps; 5 are left over. 3 images: one step of 3.
    plan = RankingPlan(0, {"a": 25, "b": 3}, batch_size=5, world_size=2)
    assert plan.epoch_batches() == {"a": 2, "b": 1}
    assert replace(plan, last_batch="fill").epoch_batches() == {"a": 3, "b": 1}
    # 3 batches in all at 1 : 2 are 1 and 2.
    assert replace(plan, weights={"a": 1.0, "b": 2.0}).epoch_batches() == {"a": 1, "b": 2}


def test_epochs_and_seeds_differ_and_permutations_are_fixed() -> None:
    plan = RankingPlan(1, {"a": 40}, batch_size=4)
    assert plan_epoch(plan, 0) != plan_epoch(plan, 1)
    assert plan_epoch(plan, 0) != plan_epoch(replace(plan, seed=2), 0)
    # By `printf 1:pass:0:a:0 | sha256sum` and so on: position 1 has the smallest digest.
    assert permutation(8, 1, "a", 0) == [1, 3, 5, 2, 6, 7, 4, 0]


def test_epoch_position_and_length() -> None:
    sampler = RankingBatchSampler(RankingPlan(0, {"a": 12}, batch_size=4))
    assert len(sampler) == 3
    sampler.consumed(2)
    assert len(list(sampler)) == 1
    assert len(sampler) == 3
    sampler.load_state_dict({**sampler.state_dict(), "epoch": 4, "position": 0})
    assert (sampler.epoch, sampler.position) == (4, 0)
    sampler.consumed(3)
    assert list(sampler) == plan_epoch(sampler.plan, 5)


def test_changed_data_cannot_resume() -> None:
    saved = RankingBatchSampler(RankingPlan(0, {"a": 12}, batch_size=4)).state_dict()
    other = RankingBatchSampler(RankingPlan(0, {"a": 13}, batch_size=2))
    with pytest.raises(ConfigError) as caught:
        other.load_state_dict(saved)
    assert caught.value.problems[0].startswith("resume: sizes was {'a': 12}")
    assert len(caught.value.problems) == 2
    same_pool = RankingBatchSampler(RankingPlan(0, {"a": 12}, batch_size=2, world_size=2))
    same_pool.load_state_dict(saved)  # another number of processes with the same global batch


def test_wrong_weights() -> None:
    with pytest.raises(ConfigError, match=r"dataset.weights=\{'b': 1.0\}: the keys must be"):
        RankingPlan(0, {"a": 3}, batch_size=2, weights={"b": 1.0})


def test_a_run_that_filled_small_sets_up_with_copies_does_not_resume() -> None:
    small = RankingBatchSampler(RankingPlan(seed=1, sizes={"a": 3, "b": 8}, batch_size=4))
    state = small.state_dict()
    small.load_state_dict(state)
    # As earlier versions saved it.
    del state["plan"]["steps of a, a set smaller than a step"]
    with pytest.raises(ConfigError, match="steps of a, a set smaller than a step was None"):
        small.load_state_dict(state)
    # Sets of a step and more are as they were.
    large = RankingBatchSampler(RankingPlan(seed=1, sizes={"a": 4}, batch_size=4))
    assert set(large.state_dict()["plan"]) == {
        "seed", "sizes", "global batch", "weights", "last_batch",
    }  # fmt: skip
