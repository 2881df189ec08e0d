"""glibc keeps what is freed, unless somebody decided otherwise."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from finetune.memory import keep_freed_memory
print(keep_freed_memory())
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):
    torch.ones(16_000_000)
before = faults()
for _ in range(5):
    torch.ones(16_000_000)
print(faults() - before)
"""


def run(**variables):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=clean | variables, check=True,
                          capture_output=True, text=True, timeout=120)
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_used_again_without_asking_the_system():
    kept, faults = run()
    if not kept:
        pytest.skip("no glibc here")
    assert faults < 1000, "each of the blocks has 15,625 pages"
    untouched, more = run(MALLOC_ARENA_MAX="4")
    assert not untouched, "the user's own setting stands"
    assert more > 5000
