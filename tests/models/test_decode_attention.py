"""The Triton kernels give what PyTorch gives: on the GPU, or in Triton's interpreter.

The interpreter has to be chosen before Triton is imported, hence the process of its own.
"""

import os
import re
import subprocess
import sys

import pytest


def test_every_kernel_case_holds(course_root):
    pytest.importorskip("triton", reason="Triton is not installed here; its kernels are not used")
    import torch

    where = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    command = [
        sys.executable, "-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib",
        "-p", "no:cacheprovider", "tests/models/kernel_cases.py",
    ]  # fmt: skip
    run = subprocess.run(
        command, cwd=course_root, env=os.environ | where, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= 60 and "skipped" not in run.stdout


@pytest.mark.parametrize("kernel", ["_store_rows", "_attend_splits", "_join_splits"])
def test_kernels_compile_for_an_h100_without_one(kernel):
    """To machine code, in bfloat16: the interpreter does not check types and layouts."""
    pytest.importorskip("triton", reason="Triton is not installed here; its kernels are not used")
    from coursekit.models import decode_attention

    shape = {
        "GROUP": 4, "ROWS": 16, "HEAD_DIM": 128, "WIDTH": 128, "TILE": 64, "SPLITS": 4
    }  # fmt: skip
    compile_for_h100(getattr(decode_attention, kernel), shape)


@pytest.mark.parametrize("kernel", ["_rotate_heads", "_gate_columns"])
def test_fused_steps_compile_for_an_h100_without_one(kernel):
    pytest.importorskip("triton", reason="Triton is not installed here; its kernels are not used")
    from coursekit.models import fused

    compile_for_h100(getattr(fused, kernel), {"HALF": 64, "WIDTH": 64, "BLOCK": 8})


def compile_for_h100(kernel, sizes):
    import triton
    from triton.backends.compiler import GPUTarget

    known = {name: "*fp32" for name in ("sums", "tops", "totals")}
    known |= {"slots": "*i64", "lengths": "*i64", "scale": "fp32"}
    tensors = "queries keys values past_keys past_values output x cos sin gate_up".split()
    known |= {name: "*bf16" for name in tensors}
    constants = {name: sizes[name] for name in kernel.arg_names if name in sizes}
    signature = {
        name: "constexpr" if name in constants else known.get(name, "i32")
        for name in kernel.arg_names
    }
    source = triton.compiler.ASTSource(kernel, signature, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert len(compiled.asm["cubin"]) > 1000
    assert kernel.__name__ != "_attend_splits" or "mma.sync" in compiled.asm["ptx"]


def test_without_a_gpu_triton_is_not_imported(course_root):
    code = (
        "import sys, coursekit.executors.torch_model, coursekit.executors.cuda_graph, "
        "coursekit.models.decoder\n"
        "from coursekit.models.config import ModelConfig\n"
        "from coursekit.models.load import build_model\n"
        "model = build_model(ModelConfig('tiny', 97, 32, 48, 2, 4, 2, 8, 512))\n"
        "executor = coursekit.executors.torch_model.TorchExecutor(model, max_model_len=100)\n"
        "assert not executor.uses_cuda_graphs\n"
        "assert 'coursekit.models.fused' not in sys.modules\n"
        "assert 'coursekit.models.decode_attention' not in sys.modules\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=course_root, capture_output=True, text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "COURSEKIT_DEVICE": "cpu"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
