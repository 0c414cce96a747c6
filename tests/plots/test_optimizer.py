"""The picture shows what the answer says."""

import numpy as np
import pytest

from coursekit.cost import RooflineCost
from coursekit.optimizers import ChunkSizeOptimizer, RunSlo, find_optimal_chunk_size
from coursekit.plots.boxes import boxes_of
from coursekit.plots.optimizer import caption, chunk_size_answer
from tests.optimizers.noisy_engine import NoisyEngine, load

COST, LOAD = RooflineCost("a100", "llama-2-7b"), load(20, 43, kind="documents")
OPTIMIZER = ChunkSizeOptimizer(COST, LOAD, max_num_seqs=64)


def parts(ax, gid):
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


@pytest.fixture(scope="module")
def answer():
    return OPTIMIZER.optimize(RunSlo(itl_s=0.06, ttft_s=20))


def test_curves_ring_and_shading_are_those_of_the_answer(answer):
    objective, limits, *_ = chunk_size_answer(answer).axes
    (curve,) = parts(objective, "objective")
    assert curve.get_ydata() == pytest.approx(answer.table["value"].to_numpy())
    (ring,) = parts(objective, "ring")
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (answer.chosen, answer.value)
    (itl,) = parts(limits, "itl_p99_s")
    assert itl.get_ydata() == pytest.approx(answer.table["itl_p99_s"].to_numpy() / 0.06)
    assert "(binds)" in itl.get_label()
    (shade,) = parts(objective, "feasible")
    inside = [
        any(left < size < right for left, right, _, _ in boxes_of(shade))
        for size in answer.table.index
    ]
    assert inside == answer.table["feasible"].tolist()


def test_the_fronts_hold_the_points_that_nobody_beats(answer):
    *_, itl, ttft = chunk_size_answer(answer).axes
    for ax, column in ((itl, "itl_p99_s"), (ttft, "ttft_p99_s")):
        (front,) = parts(ax, "on front")
        pairs = answer.table[[column, "tokens_per_s"]].to_numpy()
        expected = [
            (cost, gain) for cost, gain in pairs
            if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in pairs)
        ]  # fmt: skip
        assert sorted(zip(front.get_xdata(), front.get_ydata())) == sorted(expected)


def test_an_infeasible_answer_shades_nothing_and_marks_the_nearest():
    answer = OPTIMIZER.optimize(RunSlo(itl_s=0.006, ttft_s=2))
    figure = chunk_size_answer(answer)
    assert not parts(figure.axes[0], "feasible")
    (ring,) = parts(figure.axes[0], "ring")
    assert ring.get_xdata()[0] == answer.nearest.size
    assert caption(answer) == "No token budget keeps the SLO; 256 comes nearest, 3.8 times ITL P99"
    assert "No token budget of 7 keeps the SLO" in figure.alt_text


def test_a_live_answer_shows_intervals_and_what_was_not_run():
    answer = ChunkSizeOptimizer(NoisyEngine(1), LOAD, (64, 128, 256, 512, 1024)).optimize(
        RunSlo(itl_s=0.06, ttft_s=20), max_runs=3
    )
    figure = chunk_size_answer(answer)
    (bars,) = parts(figure.axes[0], "interval")
    low = np.array([segment[0][1] for segment in bars.get_segments()])
    assert low == pytest.approx(answer.table["ci_low"].to_numpy())
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "not run: foretold"
    (source,) = [text for text in figure.texts if text.get_gid() == "provenance"]
    assert source.get_text() == answer.label


def test_every_kind_of_answer_can_be_drawn():
    slow = ChunkSizeOptimizer(COST, load(2, 3, num_requests=20), (64, 512))
    for answer in (
        find_optimal_chunk_size(8000, 0.03), OPTIMIZER.optimize(RunSlo(itl_s=10)),
        slow.optimize(RunSlo(itl_s=0.06, ttft_s=1), "capacity"),
    ):  # fmt: skip
        figure = chunk_size_answer(answer)
        assert figure.png() and answer.explain() in figure.alt_text
