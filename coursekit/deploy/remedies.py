"""What to do when vLLM refuses a configuration: its message, and beside it a way out with numbers."""

from __future__ import annotations

import re

# A message of vLLM 0.32 (a pattern) -> the remedy, in which {1}, {2} are the pattern's groups.
REMEDIES = (
    (
        r"max_num_batched_tokens \((\d+)\) is smaller than max_model_len \((\d+)\)",
        "turn enable_chunked_prefill on, or raise max_num_batched_tokens to {2} or more, or lower "
        "max_model_len to {1} or less",
    ),
    (
        r"max_num_batched_tokens \((\d+)\) must be greater than or equal to max_num_seqs \((\d+)\)",
        "lower max_num_seqs to {1} or less, or raise max_num_batched_tokens to {2} or more: each "
        "running request takes a token of an iteration",
    ),
    (
        r"long_prefill_token_threshold \((\d+)\) cannot be greater than the max_model_len \((\d+)\)",
        "lower long_prefill_token_threshold to {2} or less, or set it to 0 for no cap",
    ),
    (
        r"max_model_len \((\d+)\) is greater than the derived max_model_len "
        r"\(max_position_embeddings=(\d+)",
        "lower max_model_len to {2} or less: the model was not made for more",
    ),
    (
        r"max_num_active_seqs \((\d+)\) cannot be greater than max_num_seqs \((\d+)\)",
        "lower max_num_active_seqs to {2} or less",
    ),
    (
        r"unexpected keyword argument '(\w+)'",
        "leave {1} out: this version of vLLM has no such setting",
    ),
    (r"Input should be greater than or equal to (\d+)", "raise it to {1} or more"),
)


def remedy_of(message: str) -> str:
    """The way out of a refusal; for one that is not known here, where to look."""
    for pattern, remedy in REMEDIES:
        if found := re.search(pattern, message):
            return remedy.format(found.group(0), *found.groups())
    return "see vLLM's message; `vllm serve --help=SETTING` explains a setting"
