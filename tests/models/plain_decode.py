"""What the Triton kernels for decoding must do, in a few lines of PyTorch, for any device."""

import torch

from coursekit.models.kernels import DecodeKernels


def store(keys, values, past_keys, past_values, slots, lengths):
    """See `coursekit.models.decode_attention.store`."""
    real = lengths > 0
    past_keys[slots[real], :, lengths[real] - 1] = keys[real]
    past_values[slots[real], :, lengths[real] - 1] = values[real]


def attend(queries, past_keys, past_values, slots, lengths):
    """See `coursekit.models.decode_attention.attend`."""
    batch, num_heads, head_dim = queries.shape
    num_kv_heads = past_keys.shape[1]
    output = torch.zeros_like(queries, memory_format=torch.contiguous_format)
    for row, (slot, length) in enumerate(zip(slots.tolist(), lengths.tolist(), strict=True)):
        rows = queries[row].reshape(num_kv_heads, num_heads // num_kv_heads, head_dim).float()
        keys = past_keys[slot, :, :length].float()  # (num_kv_heads, length, head_dim)
        weights = (rows @ keys.transpose(1, 2) * head_dim**-0.5).softmax(-1)
        if length:
            gathered = weights @ past_values[slot, :, :length].float()
            output[row] = gathered.view(num_heads, head_dim).to(queries.dtype)
    return output


PLAIN = DecodeKernels(store, attend)
