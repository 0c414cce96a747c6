"""Run as a process of its own: greedy tokens from real vLLM for prompts of token ids.

Reads {"model": folder, "prompts": [[id, ...], ...], "num_tokens": n} as JSON on standard
input and writes {"tokens": [[id, ...], ...], "chunked": bool, "budget": n} to the file named
by its argument; standard output belongs to vLLM's log.
"""

import json
import sys

from vllm import LLM, SamplingParams


def main() -> None:
    job = json.load(sys.stdin)
    llm = LLM(
        model=job["model"],
        dtype="bfloat16",
        enable_chunked_prefill=True,
        max_num_batched_tokens=256,
        max_num_seqs=8,
        max_model_len=2048,
        enforce_eager=True,
    )
    sampling = SamplingParams(temperature=0, max_tokens=job["num_tokens"], ignore_eos=True)
    prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    scheduler = llm.llm_engine.vllm_config.scheduler_config
    answer = {
        "tokens": [list(output.outputs[0].token_ids) for output in outputs],
        "chunked": scheduler.enable_chunked_prefill,
        "budget": scheduler.max_num_batched_tokens,
    }
    with open(sys.argv[1], "w") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main()
