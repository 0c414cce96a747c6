"""The decoder agrees with transformers' own Llama, and its batches keep requests apart."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from coursekit.models import Chunk, ModelConfig, build_model, load_model, resolve_model
from coursekit.models.decoder import rotary_frequencies

TOKENS = torch.randint(49152, (300,), generator=torch.Generator().manual_seed(1))


def logits_of(model, token_ids):
    """Logits at every position, (num_tokens, vocab_size), by running one token at a time."""
    cache = model.new_cache(len(token_ids))
    return torch.cat([model([Chunk(t[None], cache)]) for t in token_ids])


def test_real_weights_give_the_logits_of_transformers(smollm2):
    reference = AutoModelForCausalLM.from_pretrained(resolve_model(), dtype=torch.float32)
    with torch.inference_mode():
        expected = reference(TOKENS[None]).logits[0]
    one_shot = smollm2([Chunk(TOKENS, smollm2.new_cache(len(TOKENS)))])[0]
    assert (one_shot - expected[-1]).abs().max() < 1e-3
    assert (logits_of(smollm2, TOKENS[:40]) - expected[:40]).abs().max() < 1e-3


@pytest.mark.parametrize("scaling", [None, "llama3"])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_random_shapes_give_the_logits_of_transformers(tmp_path, num_kv_heads, scaling):
    rope = {"rope_type": "default", "rope_theta": 1e4}
    if scaling:
        rope = {
            "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        }  # fmt: skip
    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=num_kv_heads, max_position_embeddings=512,
        rope_parameters=rope, tie_word_embeddings=num_kv_heads == 2,
    )  # fmt: skip
    torch.manual_seed(0)
    reference = LlamaForCausalLM(config).eval()
    reference.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cpu", dtype=torch.float32)
    tokens = TOKENS % 128
    with torch.inference_mode():
        expected = reference(tokens[None]).logits[0, -1]
    actual = model([Chunk(tokens, model.new_cache(len(tokens)))])[0]
    assert (actual - expected).abs().max() < 1e-4


def test_llama3_scaling_changes_only_long_wavelengths():
    from coursekit.models import SHAPES

    plain = ModelConfig(**{**fields(SHAPES["llama-3.1-8b"]), "rope_scaling": None})
    ratio = rotary_frequencies(SHAPES["llama-3.1-8b"]) / rotary_frequencies(plain)
    assert ratio[0] == 1 and torch.isclose(ratio[-1], torch.tensor(1 / 8))
    assert (ratio.diff() <= 1e-6).all()


def fields(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_a_mixed_batch_gives_each_request_what_it_gets_alone(tiny_model):
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(97, (n,), generator=generator) for n in (1, 5, 17, 40)]
    cuts = [0, 4, 9, 39]  # how much of each is in its cache before the mixed batch

    def prepared():
        caches = [tiny_model.new_cache(64) for _ in prompts]
        for prompt, cache, cut in zip(prompts, caches, cuts):
            if cut:
                tiny_model([Chunk(prompt[:cut], cache)])
        return [Chunk(p[cut:], cache) for p, cache, cut in zip(prompts, caches, cuts)]

    alone = torch.cat([tiny_model([chunk]) for chunk in prepared()])
    together = tiny_model(prepared())
    assert torch.allclose(alone, together, atol=1e-5)


def test_a_failing_forward_leaves_every_cache_as_it_was(tiny_model, monkeypatch):
    first, second = tiny_model.new_cache(32), tiny_model.new_cache(32)
    tokens = torch.arange(10)
    tiny_model([Chunk(tokens[:5], first)])
    with monkeypatch.context() as patch:
        patch.setattr(tiny_model.norm, "forward", lambda x: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tiny_model([Chunk(tokens[5:], first), Chunk(tokens, second)])
    assert (first.length, second.length) == (5, 0)
    resumed = tiny_model([Chunk(tokens[5:], first)])
    assert torch.allclose(resumed, tiny_model([Chunk(tokens, second)]), atol=1e-5)


@pytest.mark.parametrize(
    "ids, capacity, message",
    [
        ([], 8, "at least 1 token, got 0"),
        ([1] * 9, 8, "0 of 8 slots"),
        ([97], 8, "0..96, got 97"),
        ([-1], 8, "0..96, got -1"),
    ],
)
def test_bad_chunks_are_refused_with_value_range_and_remedy(tiny_model, ids, capacity, message):
    cache = tiny_model.new_cache(capacity)
    with pytest.raises(ValueError, match=message):
        tiny_model([Chunk(torch.tensor(ids, dtype=torch.long), cache)])
    assert cache.length == 0


def test_one_cache_cannot_serve_two_chunks_of_a_batch(tiny_model):
    cache = tiny_model.new_cache(8)
    with pytest.raises(ValueError, match="cache of its own"):
        tiny_model([Chunk(torch.tensor([1]), cache), Chunk(torch.tensor([2]), cache)])
    with pytest.raises(ValueError, match="at least 1 chunk"):
        tiny_model([])


def test_bfloat16_stays_close_to_float32(smollm2):
    narrow = load_model(dtype=torch.bfloat16, device="cpu")
    exact = smollm2([Chunk(TOKENS, smollm2.new_cache(512))])[0]
    rough = narrow([Chunk(TOKENS, narrow.new_cache(512))])[0].float()
    assert torch.nn.functional.cosine_similarity(exact, rough, dim=0) > 0.99


def test_random_weights_are_the_same_for_the_same_seed(tiny_config):
    first, same, other = (build_model(tiny_config, seed=s) for s in (3, 3, 4))
    assert torch.equal(first.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
