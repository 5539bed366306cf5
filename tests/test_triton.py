"""Generated Triton kernels mean what the numpy interpreter means, and compile for a GPU that need not be there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepsmith.discovered import entries
from stepsmith.dsl import Program, ProgramError
from stepsmith.dsl.layout import WIDTH
from stepsmith.dsl.passes import fusable
from stepsmith.dsl.to_triton import triton_source

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

HERE = Path(__file__).parent
ZOO = [e.program for e in entries() if fusable(e.program) and not e.program.schedule]
RULES = ("lion", "adamw", "c_adamw", "nadam", "stable_spam")


def python(*args: str, **environment: str) -> str:
    command = [sys.executable, "-W", "ignore", *args]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return done.stdout


CHECKS = {
    "triton_checks.py": [
        "row or reduction", "random", "rule", "not row and not reduction and not random and not rule",
    ],
    "population_checks.py": ["row or reduction or random", "not row and not reduction and not random"],
}  # fmt: skip


@pytest.mark.parametrize(("file", "which"), [(file, which) for file, some in CHECKS.items() for which in some])
def test_interpreted(file, which):
    """The tests of a file, in a process in which Triton interprets."""
    output = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "-k", f"test_ and ({which})",
                    "--rootdir", str(HERE.parent), str(HERE / file), TRITON_INTERPRET="1")  # fmt: skip
    assert " passed" in output and "failed" not in output and "skipped" not in output


COMPILES = """
import linecache, re, sys
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from stepsmith.dsl import OPS, Program
from stepsmith.discovered import load
from stepsmith.dsl.to_triton import triton_source

POINTERS = {"table": "*i64", "programs": "*i32", "counters": "*i32", "sums": "*fp64", "partials": "*fp64"}
NUMBERS = {"held": "*fp64", "grad_scale": "*fp32", "found_inf": "*fp32"}

def kernels(program):
    text = triton_source(program, {v: f"h{v}" for v in range(program.first_hyper, program.first_local)})
    linecache.cache[program.name] = len(text), None, text.splitlines(keepends=True), program.name
    scope = {"__name__": "made"}
    exec(compile(text, program.name, "exec"), scope)
    return [x for name, x in scope.items() if re.fullmatch(r"_pass_\\d+", name)]

def compiled(kernel, dtype, state, real, there):
    signature, constants, aligned = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        given = POINTERS.get(name) or (there and NUMBERS.get(name))
        if given:
            signature[name], aligned[i,] = given, [["tt.divisibility", 16]]
        elif name == "count":
            signature[name] = "i32"
        elif kernel.params[i].annotation_type:
            signature[name] = kernel.params[i].annotation_type
        else:
            signature[name] = "constexpr"
            types = {"real": real, "exact": not there, "w_type": dtype, "g_type": dtype, "maximize": there}
            constants[i,] = types.get(name, state if name.endswith("_type") else None)
    source = ASTSource(kernel, signature, constants, aligned)
    options = kernel.fn.__globals__["_OPTIONS"]
    return triton.compile(source, GPUTarget("cuda", 90, 32), options).asm["ptx"]

# One number per tensor is enough to see that a spelling compiles, and compiles fast.
rows = [row for row in OPS.values() if row.elementwise and row.arity and row.c and row.name != "identity"]
lines = [f" y = y + {row.name}({', '.join(('s', 'y', 'lr')[: row.arity])})" for row in rows]
lines = ["def every(w, g, lr=1.0):", " s = amax(g)", " y = sum(g)", *lines, " return lr * y * g"]
every = Program.parse("\\n".join(lines))
for kernel in kernels(every):
    for real in (tl.float32, tl.float64):
        compiled(kernel, real, real, real, False)
for name in sys.argv[1:]:
    for number, kernel in enumerate(kernels(load(name))):
        compiled(kernel, tl.bfloat16, tl.float32, tl.float32, True)
        text = compiled(kernel, tl.float32, tl.float32, tl.float32, False)
        print(name, number, text.count("ld.global.v4"), text.count("st.global.v4"))
"""


SPECIALIZES = """
import sys
import torch, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.jit import create_function_from_signature
from stepsmith.discovered import load
from stepsmith.dsl.to_triton import triton_step

program = load("c_adamw")
step = triton_step(program, {v: f"h{v}" for v in range(program.first_hyper, program.first_local)})
kernel = step.__globals__["_pass_1"]
bind = create_function_from_signature(kernel.signature, kernel.params, CUDABackend(GPUTarget("cuda", 90, 32)))

def key(count, number, held=None):
    types = {"table": torch.int64, "programs": torch.int32, "sums": torch.float64}
    given = {name: torch.zeros(4, dtype=dtype) for name, dtype in types.items()}
    given |= {"count": count, "held": held, "grad_scale": held, "found_inf": None, "maximize": False}
    given["exact"] = True
    return str(bind(*(given.get(name, tl.float32 if name == "real" or name.endswith("_type") else number)
                      for name in kernel.arg_names))[1])

print(len({key(count, number) for count in (1, 2, 16, 17) for number in (0.0, 1.0, 0.3)}),
      len({key(1, 0.0, torch.zeros(5)[i:]) for i in (0, 1)}), len({key(1, 0.0), key(1, 0.0, torch.zeros(4))}))
"""


def test_nothing_is_compiled_again_for_other_numbers():
    """Triton's key of a launch for other numbers of tensors, other rates, and scales at other addresses."""
    assert python("-c", SPECIALIZES, TRITON_INTERPRET="0").split() == ["1", "1", "2"]


def test_compiled_for_a_gpu(tmp_path):
    """All rows, and some rules, whose loads and stores of full chunks are wide."""
    output = python("-c", COMPILES, *RULES, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    wide = {tuple(line.split()[:2]): tuple(map(int, line.split()[2:4])) for line in output.splitlines()}
    assert wide["lion", "0"] == (6, 4)  # w, g and m in, w and m out, 2 x 16 bytes a thread each
    assert wide["adamw", "0"] == (8, 6)
    assert wide["c_adamw", "0"] == (6, 0) and wide["c_adamw", "1"] == (8, 6)
    assert {name for name, _ in wide} == set(RULES)


COMPILES_POPULATION = """
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from stepsmith.dsl.encode import TILE
from stepsmith.dsl.population_kernel import step
from stepsmith.dsl.triton_engine import OPTIONS

for real in (tl.float32, tl.float64):
    signature, constants = {}, {"real": real, "block": TILE}
    for name in step.arg_names:
        kind = "i32" if name in ("count", "rows", "tensors", "kept", "local") else "*i32"
        signature[name] = "constexpr" if name in constants else {"places": "*i64", "sums": "*fp64"}.get(name, kind)
    places = {(i,): constants[name] for i, name in enumerate(step.arg_names) if name in constants}
    made = triton.compile(ASTSource(step, signature, places, {}), GPUTarget("cuda", 90, 32), OPTIONS)
    print(real, len(made.asm["cubin"]))
"""


def test_the_interpreter_of_populations_compiles_for_a_gpu(tmp_path):
    """For both precisions."""
    output = python("-c", COMPILES_POPULATION, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert [line.split()[0] for line in output.splitlines()] == ["fp32", "fp64"]


@pytest.mark.parametrize("program", ZOO, ids=lambda program: program.name)
def test_the_text_is_as_a_formatter_leaves_it(program):
    text = triton_source(program, {v: program.name_of(v) for v in range(program.first_hyper, program.first_local)})
    command = ["ruff", "format", "--isolated", "--line-length", str(WIDTH), "-"]
    shown = subprocess.run([sys.executable, "-m", *command], input=text, check=True, capture_output=True, text=True)
    assert shown.stdout == text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_what_is_no_kernel_is_refused():
    with pytest.raises(ProgramError, match="cannot be one kernel"):
        triton_source(Program.parse("def f(w, g, lr, noise):\n return lr * (g + noise)"), {})


@pytest.mark.parametrize("section", ["small", "population"])
def test_the_measurements_need_a_gpu(section):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(HERE.parent / "benchmarks" / "gpu.py"), "--section", section]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, f"{section}: skipped, benchmarks/gpu.py needs a CUDA device\n")
