#!/usr/bin/env python3
"""tests/bench_faults.py: a fault of PyTorch in one measurement of tools/bench/pytorch_step.py loses that one alone.

It needs no PyTorch: a made-up module has the few names that the script uses while it is loaded.
"""
import os
import sys
import types

torch = types.ModuleType("torch")
torch.__version__, torch.nn = "2.0", types.ModuleType("torch.nn")
torch.nn.Module, torch.nn.functional = object, types.ModuleType("torch.nn.functional")
sys.modules.update({"torch": torch, "torch.nn": torch.nn, "torch.nn.functional": torch.nn.functional})
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "tools", "bench"))
import pytorch_step  # noqa: E402


def fails_when_made():
    raise RuntimeError("no C compiler\nand much more")


def step_that_fails():
    raise OSError("Python.h is missing")


def ours():
    return lambda: 0.5


def server_that_ends():
    return pytorch_step.Server(sys.executable, "-c", "input(); print(0.25, flush=True)")


def server_that_has_ended():
    server = pytorch_step.Server(sys.executable, "-c", "")
    server.program.wait()
    return server


options = types.SimpleNamespace(device="cpu", turns=3)
jobs = [("made", "step", None, ours, fails_when_made), ("run", "step", None, ours, lambda: step_that_fails),
        ("ended", "step", None, server_that_ends, lambda: lambda: 1.0),
        ("gone", "step", None, server_that_has_ended, lambda: lambda: 1.0),
        ("absent", "attention", None, ours, lambda: None), ("good", "step", 1.0, ours, lambda: lambda: 1.0)]
ratios, failed = pytorch_step.measure(options, jobs, "here")
for name in ("ended", "gone"):
    assert failed.pop(name).startswith("RuntimeError: it has ended: "), failed
assert failed == {"made": "RuntimeError: no C compiler", "run": "OSError: Python.h is missing"}, failed
assert [one["name"] for one in ratios] == ["good"] and ratios[0]["turns"] == [2.0, 2.0, 2.0], ratios
print("one measurement of six is there, four have failed by name")
