"""Real vLLM, chunking for real, and our decoder read the same weights to the same words."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from coursekit.chunking import ChunkedPrefillProcessor
from coursekit.models import generate_greedy, load_model, load_tokenizer, resolve_model

NUM_TOKENS = 16
MUST_AGREE = 8  # bfloat16 ties may part them later
STORY = "Once upon a time there was a small town by the sea, where everybody knew everybody. "
PROMPTS = [
    "The capital of France is",
    "Water boils at a temperature of",
    "The first ten prime numbers are 2, 3, 5,",
    "def add(a, b):\n    return",
    STORY * 40 + "The town was by the",  # several chunks of 256 tokens
]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="no vLLM on this platform"
)


@pytest.fixture(scope="module")
def prompts():
    tokenizer = load_tokenizer()
    return [tokenizer(text).input_ids for text in PROMPTS]


@pytest.fixture(scope="module")
def answer_of_vllm(prompts, tmp_path_factory):
    out = tmp_path_factory.mktemp("vllm") / "answer.json"
    job = {"model": str(resolve_model()), "prompts": prompts, "num_tokens": NUM_TOKENS}
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    script = Path(__file__).with_name("generate_with_vllm.py")
    done = subprocess.run(
        [sys.executable, str(script), str(out)],
        input=json.dumps(job), capture_output=True, text=True, timeout=400,
        env={**os.environ, **settings},
    )  # fmt: skip
    assert done.returncode == 0, f"vLLM failed:\n{done.stderr[-3000:]}"
    return json.loads(out.read_text())


def test_vllm_ran_with_chunked_prefill_and_our_budget(answer_of_vllm, prompts):
    assert answer_of_vllm["chunked"] is True and answer_of_vllm["budget"] == 256
    assert max(map(len, prompts)) > 2 * 256


@pytest.mark.parametrize("index", range(len(PROMPTS)))
def test_our_greedy_tokens_begin_as_those_of_vllm(answer_of_vllm, prompts, index):
    model = load_model(device="cpu", dtype=torch.bfloat16)
    job = ChunkedPrefillProcessor(model, chunk_size=256).process(prompts[index])
    ours = generate_greedy(model, job.cache, job.logits, NUM_TOKENS)
    assert ours[:MUST_AGREE] == answer_of_vllm["tokens"][index][:MUST_AGREE]
