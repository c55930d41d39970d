#!/usr/bin/env python3
"""Checks a page's names and examples of PyTorch and Megatron-Core against the packages that are installed.

    peers.py [PAGE]     0: they are as the page says, 1: they are not, 77: a package is missing or old, and the last
                        line names it; what the other one can show is checked

A code span `torch.a.b(x, y)` or `megatron.a.b(x, y)` must exist, and take x and y. The blocks of Python run in one program,
as rank 3 of 8 on PyTorch's fake backend. A section has at most ten lines of table and code. The versions with which the
page was checked stand on it.
"""
import importlib
import inspect
import logging
import re
import sys
import warnings
from pathlib import Path

PACKAGES = {"torch": "PyTorch", "megatron.core": "Megatron-Core"}


def resolve(dotted):
    """The object of a dotted name, imported as far as it is a module."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AttributeError(f"no module {parts[0]}")


def parameters(found):
    return inspect.signature(found.__init__ if inspect.isclass(found) else found).parameters


def numbers(version):
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def faults_of_names(text, package):
    for span in sorted(set(re.findall("`(" + package.split(".")[0] + r"\.[^`]*)`", text))):
        dotted, _, arguments = span.partition("(")
        try:
            found = resolve(dotted)
            takes = parameters(found) if arguments.rstrip(")") else {}
        except (AttributeError, ValueError) as error:
            yield f"{dotted}: {error}"
            continue
        for name in filter(None, re.split(r"\W+", arguments)):
            if name not in takes:
                yield f"{dotted} takes no {name}, but {', '.join(takes)}"


def faults_of_lengths(text):
    for section in text.split("\n## ")[1:]:
        lines = [line for line in section.splitlines()[1:] if line and not line.startswith(("```", "| ---"))]
        if len(lines) > 10:
            yield f"section {section.splitlines()[0]}: {len(lines)} lines, more than 10"


def faults_of_code(text):
    import torch.distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=3, world_size=8)
    names = {}
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        line = text.count("\n", 0, block.start(1))
        try:
            exec(compile("\n" * line + block[1], "page", "exec"), names)  # errors name the page's lines
        except Exception as error:  # whatever an example throws is a fault of the page
            at = [frame.lineno for frame in inspect.getinnerframes(error.__traceback__) if frame.filename == "page"]
            yield f"line {at[-1] if at else line}: {type(error).__name__} {error}"


def main():
    page = Path(sys.argv[1] if len(sys.argv) > 1
                else Path(__file__).parents[3] / "notebooks_md/in_pytorch_and_megatron.md")
    text = page.read_text(encoding="utf-8")
    faults, missing = list(faults_of_lengths(text)), []
    for package, name in PACKAGES.items():
        said = re.search(name + r" (\d+(?:\.\d+)+)", text)
        if said is None:
            faults.append(f"no version of {name}")
            continue
        try:
            version = importlib.import_module(package).__version__.split("+")[0]
        except ImportError:
            version = "none"
        if version == "none" or numbers(version) < numbers(said[1]):
            missing.append(f"{name} {said[1]} (here: {version})")
            continue
        if version != said[1]:
            print(f"{name} is {version} here; the page was checked with {said[1]}")
        faults += faults_of_names(text, package)
        if package == "torch":
            faults += faults_of_code(text)
    for fault in faults:
        print(f"{page.name}: {fault}")
    print(f"{page.name}: {len(faults)} faults")
    if missing:
        print(f"skipped: {' and '.join(missing)}; pip install torch megatron-core")
    return 1 if faults else 77 if missing else 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.exit(main())
