"""`python -m tests.portable [PYTEST ARGUMENTS]`: what computes, as on every kind of processor.

torch, oneDNN and MKL choose their kernels by the instructions that a processor has, and each kernel
rounds in its own way. Here they are held to those of older processors, in one thread and in two.
"""

import os
import subprocess
import sys

import torch

# Named by torch, by oneDNN, by MKL twice, and in how many threads; the best comes last.
CAPABILITIES = (
    ("default", "SSE41", "SSE4_2", "COMPATIBLE", 1),
    ("avx2", "AVX2", "AVX2", "AVX2", 2),
    ("avx512", "AVX512_CORE", "AVX512", "AVX512", 1),
)
# Where rounding can decide; what is left reads files, parses words and refuses them.
TESTS = ("norms", "polar", "optim", "groups", "theory", "test_steps.py", "test_balls.py")
TESTS += ("distributed/test_training.py", "zoo", "lab/test_train.py", "lab/test_models.py")


def settings():
    """Yield the environment of every capability that this processor has, off x86 of the first."""
    names = [names[0] for names in CAPABILITIES]
    best = torch.backends.cpu.get_cpu_capability().lower()
    has = names.index(best) + 1 if best in names else 1
    for torchs, onednn, mkl, reproducible, threads in CAPABILITIES[:has]:
        yield {
            "ATEN_CPU_CAPABILITY": torchs,
            "ONEDNN_MAX_CPU_ISA": onednn,
            "MKL_ENABLE_INSTRUCTIONS": mkl,
            "MKL_CBWR": reproducible,
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",  # two workers may share two cores
        }


def main(arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2"]
    command += arguments or [f"tests/{name}" for name in TESTS]
    failed = []
    for made in settings():
        print(" ".join(f"{name}={value}" for name, value in made.items()), flush=True)
        if subprocess.run(command, env=os.environ | made, check=False).returncode:
            failed.append(made["ATEN_CPU_CAPABILITY"])
    return f"failed under: {', '.join(failed)}" if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
