"""The analyzer asks any source the same questions and tabulates the answers."""

import pytest

from coursekit import LiveTorchSource, PrefillDecodeAnalyzer
from coursekit.analyzers.sources import Limits, Timing
from coursekit.cost import RooflineCost, batch_work, chunk_work, profiles
from coursekit.live import TorchEngine
from coursekit.schedulers import TokenBudget


def test_by_default_it_tabulates_the_module_formula():
    table = PrefillDecodeAnalyzer().analyze()
    assert table.prompt_length.tolist() == [100, 500, 1000, 2000, 4000, 8000]
    assert table.prefill_s.iloc[-1] == pytest.approx(64.01)
    assert table.ratio.iloc[-1] == pytest.approx(64.01 / 0.085)
    assert table.attrs["label"].startswith("simulated")


def test_a_live_source_answers_through_the_same_interface(tiny_model):
    table = PrefillDecodeAnalyzer(LiveTorchSource(tiny_model)).analyze([10, 300])
    assert (table[["prefill_s", "decode_s", "ratio"]] > 0).all(axis=None)
    assert table.attrs["label"].startswith("live (")


def test_on_the_real_model_prefill_grows_with_the_prompt_and_dwarfs_decode(smollm2):
    table = PrefillDecodeAnalyzer(LiveTorchSource(smollm2)).analyze([32, 1024])
    short, long = table.prefill_s
    assert long > 3 * short  # 32 times the tokens; seen: 15 to 20 times the time
    assert table.ratio.iloc[-1] > 3


def test_no_prompt_lengths_are_refused():
    with pytest.raises(ValueError, match="at least 1 length, got none"):
        PrefillDecodeAnalyzer().analyze([])


def test_a_length_past_the_context_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"1\.\.512 tokens, got 513"):
        LiveTorchSource(tiny_model).prefill_s(513)


def test_repeats_under_one_are_refused(tiny_model):
    with pytest.raises(ValueError, match="repeats must be >= 1, got 0"):
        LiveTorchSource(tiny_model, repeats=0)


# --- Chunks, batches, the knee, and what they come to ---


def engine_of(model, budget=64, seats=5, longest=300):
    return TorchEngine(model, TokenBudget(budget, seats), longest)


RECORDED = f"recorded:{next(iter(profiles()))}"


@pytest.mark.parametrize(
    "name, kind",
    [
        ("formula", "simulated ("), ("roofline:a100/llama-2-7b", "simulated ("),
        (RECORDED, "recorded ("),
    ],
)  # fmt: skip
def test_each_source_fills_the_same_tables_under_its_own_label(name, kind):
    analyzer = PrefillDecodeAnalyzer.of(name)
    prefill, decode, knee = analyzer.prefill_table(), analyzer.decode_table(), analyzer.knee()
    assert (prefill.prefill_s > 0).all() and (decode.step_s > 0).all()
    labels = {prefill.attrs["label"], decode.attrs["label"], knee.label, analyzer.source.label}
    assert len(labels) == 1 and labels.pop().startswith(kind)
    text = analyzer.findings(prefill, decode, knee)
    assert analyzer.source.label[1:] in text and text.startswith(kind.capitalize())


def test_a_live_engine_and_a_bare_model_fill_them_too(tiny_model):
    for what in (engine_of(tiny_model), tiny_model):
        analyzer = PrefillDecodeAnalyzer.of(what, repeats=1)
        prefill = analyzer.prefill_table([16, 60], [8, 16])
        assert prefill[["prompt_length", "chunk_size"]].values.tolist() == [
            [16, 16], [16, 8], [60, 60], [60, 8], [60, 16]
        ]  # fmt: skip
        assert (prefill.prefill_s > 0).all() and (prefill.intensity > 0).all()
        decode = analyzer.decode_table([8, 40], [1, 4])
        assert decode.attrs["label"].startswith("live (") and (decode.step_s > 0).all()
        knee = analyzer.knee(range(1, 64, 7))
        assert analyzer.findings(prefill, decode, knee).startswith("Live (")


def test_prefill_time_is_summed_over_chunks_and_set_against_one_shot():
    cost = RooflineCost("a100", "llama-2-7b")
    table = PrefillDecodeAnalyzer(cost).prefill_table([1000, 100], [256, 4000])
    assert table.prompt_length.tolist() == [100, 1000, 1000]
    row = table.iloc[2]
    parts = [cost.iteration_s(0, 0, [(None, n, at)]) for n, at in
             ((256, 0), (256, 256), (256, 512), (232, 768))]  # fmt: skip
    assert row.prefill_s == pytest.approx(sum(parts)) and row.num_chunks == 4
    assert row.slowest_chunk_s == max(parts)
    assert row.overhead == pytest.approx(sum(parts) / cost.iteration_s(0, 0, [(None, 1000, 0)]) - 1)
    spans = ((256, 0), (256, 256), (256, 512), (232, 768))
    works = [chunk_work(cost.model, n, at) for n, at in spans]
    assert row.intensity == pytest.approx(sum(w.flop for w in works) / sum(w.bytes for w in works))


def test_decode_time_is_by_context_and_batch():
    cost = RooflineCost("a100", "llama-2-7b")
    table = PrefillDecodeAnalyzer(cost).decode_table([2000, 100], [8, 1])
    assert table[["context_length", "batch_size"]].values.tolist() == [
        [100, 1], [100, 8], [2000, 1], [2000, 8]
    ]  # fmt: skip
    row = table.iloc[3]
    assert row.step_s == cost.iteration_s(8, 16_000, [])
    assert row.over_one == pytest.approx(row.step_s / table.step_s[2])
    assert row.tokens_per_s == pytest.approx(8 / row.step_s)
    assert row.intensity == batch_work(cost.model, 8, 16_000).intensity


def test_the_knee_of_a_roofline_lies_where_computing_catches_up_with_reading():
    cost = RooflineCost("h100", "llama-3.1-8b", tile=1)
    knee = PrefillDecodeAnalyzer(cost).knee()
    model, device, share = cost.model, cost.hardware, cost.efficiency
    read_s = model.num_linear_parameters * 2 / (device.bytes_per_s * share.bandwidth)
    token_s = 2 * model.num_linear_parameters / (device.flop_per_s * share.compute)
    assert knee.tokens == pytest.approx(read_s / token_s, rel=0.05)
    assert knee.ridge_tokens == pytest.approx(device.ridge)


def test_the_old_calls_take_chunks_and_batches():
    analyzer = PrefillDecodeAnalyzer.of("formula")
    assert analyzer.measure_prefill_time(1000) == pytest.approx(1.01)
    assert analyzer.measure_prefill_time(1000, 100) == pytest.approx(1.1)  # ten bases
    assert analyzer.measure_decode_time(100, 8) == analyzer.measure_decode_time(100)


class Scripted:
    """A source whose chunks and batches cost what is asked for."""

    label, config, hardware, bytes_per_value = "live (scripted)", None, None, 2
    limits = Limits(1024, 1024, 16)

    def __init__(self, chunk_factor=1.0, batch_factor=1.0, spread=0.0, per_token=1e-4):
        self.chunk_factor, self.batch_factor = chunk_factor, batch_factor
        self.spread, self.per_token = spread, per_token

    def prefill_s(self, prompt_length):
        return self.prefill(prompt_length).seconds

    def decode_s(self, context_length):
        return self.decode(context_length).seconds

    def prefill(self, prompt_length, chunk_size=None):
        whole = 0.01 + self.per_token * max(0, prompt_length - 64)
        chunked = chunk_size is not None and chunk_size < prompt_length
        seconds = whole * (self.chunk_factor if chunked else 1.0)
        return Timing(seconds, self.spread, (seconds / 2,) * 2)

    def decode(self, context_length, batch_size=1):
        return Timing(0.01 * self.batch_factor ** (batch_size > 1), self.spread, (0.01,))


@pytest.mark.parametrize(
    "settings, said, unsaid",
    [
        ({"chunk_factor": 0.6}, "in chunks of 512 it is 40% faster", "longer"),
        ({"chunk_factor": 1.5}, "in chunks of 512 it takes 50% longer", "faster"),
        ({"chunk_factor": 3.0}, "in chunks of 512 it takes 3 times as long", "faster"),
        ({"chunk_factor": 1.05, "spread": 0.1}, "it takes as long, within 20%", "longer"),
        ({"batch_factor": 2.0}, "a batch of 16 behind 1,024 takes 2 times as long as one of 1, so "
         "a token in it is cheaper, 1.25 ms each", "dearer"),
        ({"batch_factor": 20.0}, "so a token in it is dearer, 12.5 ms each", "cheaper"),
        ({"batch_factor": 16.0}, "so a token in it is as dear", "cheaper"),
        ({}, "The knee lies at 64 tokens", "No knee"),
        ({"per_token": 1e-6}, "No knee lies in the range", "The knee lies"),
        ({"spread": 0.3}, "Repeats differ by 30%", "extrapolated"),
        ({}, "Live (scripted).", "Repeats differ"),
    ],
)  # fmt: skip
def test_the_findings_follow_the_data(settings, said, unsaid):
    text = PrefillDecodeAnalyzer(Scripted(**settings)).findings()
    assert said in text and unsaid not in text


@pytest.mark.filterwarnings("ignore:.*asked beyond what was measured")
def test_the_findings_name_what_limits_each_phase_and_what_is_extrapolated():
    text = PrefillDecodeAnalyzer.of("roofline:a100/llama-2-7b").findings()
    assert "with the ridge at 153, computing limits prefill, memory decode" in text
    recorded = PrefillDecodeAnalyzer.of(RECORDED)
    beyond = recorded.prefill_table([100, 4000], [64])
    assert "and so extrapolated: 1 of 16 times" in recorded.findings(beyond)
    assert "extrapolated" not in recorded.findings()


def test_a_source_of_two_times_only_says_what_to_pass_instead(tiny_model):
    analyzer = PrefillDecodeAnalyzer(LiveTorchSource(tiny_model))
    for ask in (analyzer.prefill_table, analyzer.decode_table, analyzer.knee, analyzer.findings):
        with pytest.raises(ValueError, match="LiveTorchSource times one shot and one request only"):
            ask()


def test_empty_lists_are_refused():
    analyzer = PrefillDecodeAnalyzer()
    with pytest.raises(ValueError, match="chunk_sizes must hold at least 1 size, got none"):
        analyzer.prefill_table([100], [])
    with pytest.raises(ValueError, match="context_lengths must hold at least 1 length, got none"):
        analyzer.decode_table([])
