#!/usr/bin/env python3
"""Checks the numbers in the prose of pages: each of five digits or more stands in an output of its page, or in a formula.

    numbers.py FOLDER     0: all do, and each equation of numbers holds; 1: the rest are named

An equation is what stands in a formula between = and =, where both sides are numbers: $2 \\cdot 3 = 6$. Two sides may
differ by half a unit of the last digit that is shown. The width of GPT-3, the ids of GPT-2 and issues are no claims.
"""
import re
import sys
from pathlib import Path

REPLACED = [(r"\\cdot|\\times", "*"), (r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))"), (r"\\left|\\right", ""),
            (r"\\[,;! ]", " "), (r"\\text\{ (?:[KM]?B|MB|ms)\}", ""), (r"\^\{([^{}]*)\}", r"**(\1)"), (r"\^(\d)", r"**\1"),
            (r"\\sqrt\{([^{}]*)\}|\\sqrt (\d+)", r"((\1\2)**0.5)")]


def value(side):
    """(the number that a side of an equation is, half a unit of its last digit where it is written out), or None."""
    for pattern, by in REPLACED:
        side = re.sub(pattern, by, side)
    side = re.sub(r"(?<=\d)\s+(?=\()|\)\s*\(", lambda m: ")*(" if m[0].startswith(")") else "*", side).strip()
    if not re.fullmatch(r"[\d.+\-*/() ]*\d[\d.+\-*/() ]*", side):
        return None
    try:
        shown = re.fullmatch(r"-?\d+(?:\.(\d+))?(?: \* 10\*\*\((-?\d+)\))?", side)
        unit = 10 ** (int(shown[2] or 0) - len(shown[1] or "")) if shown and ("." in side or "*" in side) else 0
        return eval(side, {"__builtins__": {}}), 0.5001 * unit
    except (SyntaxError, ZeroDivisionError, TypeError):
        return None


def faults(page):
    text = page.read_text(encoding="utf-8").split("\n## References")[0]
    outputs = " ".join(re.findall(r"^```.*?^```", text, re.M | re.S))
    prose = re.sub(r"^```.*?^```|<!--.*?-->|\]\([^)]*\)|!\[[^\]]*\]|`[^`]*`|issue \d+", " ", text, flags=re.M | re.S)
    formulas = re.findall(r"\$\$(.*?)\$\$|\$([^$]*)\$", prose, re.S)
    proven = set()
    for formula in (a or b for a, b in formulas):
        for line in re.split(r"\\cr|\\qquad|\\quad|&|,(?=\s)", formula):
            sides = [(side, value(side)) for side in re.split(r"=|\\approx", line)]
            if "approx" not in line:
                for (left, a), (right, b) in zip(sides, sides[1:]):
                    if a and b and abs(a[0] - b[0]) > max(a[1], b[1], 1e-9 * abs(a[0]), 0.5001 * (a[0] % 1 > 0)):
                        yield f"{left.strip()} is not {right.strip()}"
        proven.update(re.findall(r"\d{5,}", formula))
    for number in sorted(set(re.findall(r"(?<![\d.,/])\d{5,}(?![\d]|\.\d)", re.sub(r"\$[^$]*\$", " ", prose)))):
        if not re.search(rf"(?<!\d){number}(?!\d)", outputs) and number not in proven and number not in ("12288", "50257"):
            yield f"{number} is neither in an output nor in a formula of this page"


if __name__ == "__main__":
    found = [f"{page.name}: {fault}" for page in sorted(Path(sys.argv[1]).glob("*.md")) for fault in faults(page)]
    print("\n".join(found + [f"{len(found)} faults"]))
    sys.exit(1 if found else 0)
