"""The module's three configurations, with numbers that can be traced and that vLLM accepts.

They are where to start on a device that nobody has measured: `recommend` finds the numbers of a
device, a model and an SLO. The module turns chunked prefill off for batches, under a budget of
4096, which vLLM refuses for every model with a longer context; here it stays on.
"""

from __future__ import annotations

from typing import NamedTuple

from coursekit.deploy.context import context_length
from coursekit.deploy.settings import ChunkedPrefillConfig, Setting

SCHEDULER = "vLLM, vllm/config/scheduler.py"
ARGUMENTS = "vLLM, vllm/engine/arg_utils.py"
SARATHI = "Sarathi-Serve (OSDI 2024, arXiv 2403.02310)"
ROWS = "benchmarks/results/presets.json"  # ": " and the row's name follow


class Number(NamedTuple):
    """A number of a preset with its reason and source."""

    value: int
    reason: str
    source: str


class Preset(NamedTuple):
    """What differs between the workloads. longest: most tokens of one request; threshold 0: no cap."""

    rationale: str
    budget: Number
    max_num_seqs: Number
    threshold: Number
    longest: Number
    prefix_caching: str


PRESETS: dict[str, Preset] = {
    "long_context_qa": Preset(
        "Long documents with short answers. Chunks large enough that a document is not read at a "
        "crawl, small enough that those who decode beside it go on.",
        Number(
            1024, "the documents' TTFT is lower than with 512, and the tokens' P99 gap half of that "
            "with 2048", f"{ROWS}: documents: TTFT P50 of the documents, budget 1024 "
            f"beside 512; {ROWS}: documents: ITL P99, budget 1024 beside 2048",
        ),
        Number(
            64, "long contexts fill the KV cache, not the batch: about as many of 8K tokens as 80 GB "
            "hold beside Llama-3.1 8B; more would be admitted to be preempted",
            "counted: coursekit.simulate.num_blocks_that_fit",
        ),
        Number(
            0, "no cap: the document that everybody waits for may use the whole budget; a cap would "
            "favour the short questions and delay the documents",
            f"{ROWS}: documents: TTFT P50 of the documents, threshold 768 beside none",
        ),
        Number(
            32768, "a limit lower than that of models with 128K: vLLM starts only if the KV cache "
            "can hold one request of this length", "vLLM, vllm/v1/core/kv_cache_utils.py",
        ),
        "several questions on one document read it once",
    ),
    "mixed_interactive": Preset(
        "Many short requests among a few long prompts. Small chunks keep every gap between tokens "
        "short, and a cap leaves room beside a long prompt for the next short one.",
        Number(
            512, "the budget under strict limits on the time between tokens; the P99 gap is less than a "
            "third of that with vLLM's default for servers, 2048",
            f"{SARATHI}, budgets of the capacity experiment; {ROWS}: mixed: ITL P99, budget 512 "
            "beside 2048",
        ),
        Number(
            128, "as many as were served together under such budgets; each takes one token of an "
            "iteration, so that three quarters of it are left for prompts",
            f"{SARATHI}, largest batch of the capacity experiment",
        ),
        Number(
            384, "vLLM serves running requests in order, so a long prompt would take the budget until "
            "it is done; a quarter stays for those behind it, who then start at once. Its price is "
            "the long prompts' own TTFT",
            f"{ROWS}: mixed: TTFT P50, threshold 384 beside none",
        ),
        Number(
            8192, "chats are shorter, and one request of 128K would hold the KV cache of many",
            f"{SARATHI}, openchat_sharegpt4, total cut at 8,192",
        ),
        "each turn of a chat repeats the turns before it",
    ),
    "batch_processing": Preset(
        "Nobody waits for a token, so throughput counts alone. Chunked prefill stays on: it costs "
        "nothing here, fills every iteration to the brim, and takes prompts of any length.",
        Number(
            4096, "past 2048 the throughput hardly changes any more, while the memory for activations "
            "goes on growing; also the module's figure and vLLM's default for CPUs without a server",
            f"{ROWS}: batch: throughput, budget 4096 beside 8192; {ARGUMENTS}, get_batch_defaults",
        ),
        Number(
            256, "decodes share each reading of the weights, so more of them at once give more; vLLM's "
            "default without a server",
            f"{ROWS}: batch: throughput, 256 sequences beside 128; {ARGUMENTS}, get_batch_defaults",
        ),
        Number(
            0, "no cap: no request is to be favoured", f"{SCHEDULER}, long_prefill_token_threshold",
        ),
        Number(
            8192, "one request of 128K would hold the KV cache of many; raise it if yours are longer",
            f"{SARATHI}, openchat_sharegpt4, total cut at 8,192",
        ),
        "an instruction that all prompts begin with is computed once",
    ),
}  # fmt: skip


def get_chunked_prefill_config(
    workload_type: str, model: str | None = None, max_model_len: int | None = None
) -> ChunkedPrefillConfig:
    """The preset for a workload, fitted to the model's context length.

    workload_type: a name in PRESETS; model: folder, hub id, or a name of `coursekit.models.SHAPES`,
    None for the course's model; max_model_len: most tokens of one request, the preset's or the
    model's context if that is shorter, unless given. Raises ValueError for an unknown workload, listing
    the known ones, for a length that the model has not got, and if the model's can't be found out.
    """
    if workload_type not in PRESETS:
        raise ValueError(f"unknown workload {workload_type!r}; known: {', '.join(PRESETS)}")
    preset = PRESETS[workload_type]
    length = _length(preset.longest, model, max_model_len)
    threshold = preset.threshold
    if threshold.value > length.value:  # vLLM refuses it
        threshold = threshold._replace(value=length.value)
    settings = (
        Setting("enable_chunked_prefill", True, *_why_chunked(preset, length.value)),
        Setting("max_num_batched_tokens", *preset.budget),
        Setting("max_num_seqs", *preset.max_num_seqs),
        Setting("long_prefill_token_threshold", *threshold),
        Setting("max_model_len", *length),
        Setting(
            "enable_prefix_caching", True, preset.prefix_caching,
            "vLLM, vllm/v1/core/kv_cache_utils.py: blocks found again by a hash of their tokens",
        ),
    )  # fmt: skip
    return ChunkedPrefillConfig(workload_type, model, settings, preset.rationale)


def _why_chunked(preset: Preset, length: int) -> tuple[str, str]:
    """The reason says what vLLM would do without it, at this length."""
    if preset.budget.value < length:
        reason = (
            f"without it vLLM refuses a budget under max_model_len, {preset.budget.value:,} under "
            f"{length:,}"
        )
    else:
        reason = (
            "without it a prompt waits until it fits into an iteration whole, and the rest of the "
            "budget stays empty"
        )
    return reason, f"{SCHEDULER}, verify_max_model_len; vllm/v1/core/sched/scheduler.py"


def _length(longest: Number, model: str | None, given: int | None) -> Number:
    if given is not None and given < 1:
        raise ValueError(f"max_model_len must be >= 1, got {given}: leave it out for the preset's")
    if given is not None and model is not None and "/" in model:
        return Number(given, "as given", "the caller")  # vLLM looks at the model itself
    context = context_length(model)
    if given is not None and given > context:
        raise ValueError(
            f"max_model_len must be in 1..{context}, the context of the model, got {given}: lower it"
        )
    if given is not None:
        return Number(given, "as given", "the caller")
    if context <= longest.value:
        return Number(context, "the model's context length", "the model's config.json")
    return longest
