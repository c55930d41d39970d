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


options = types.SimpleNamespace(device="cpu", turns=3)
jobs = [("made", "step", None, fails_when_made), ("run", "step", None, lambda: step_that_fails),
        ("absent", "attention", None, lambda: None), ("good", "step", 1.0, lambda: lambda: None)]
ratios, failed = pytorch_step.measure(options, jobs, lambda job: 0.5, os.getpid(), "here")
assert failed == {"made": "RuntimeError: no C compiler", "run": "OSError: Python.h is missing"}, failed
assert [one["name"] for one in ratios] == ["good"] and len(ratios[0]["turns"]) == 3, ratios
print("one measurement of four is there, two have failed by name")
