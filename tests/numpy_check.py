#!/usr/bin/env python3
"""numpy alone redoes each lesson from its --dump: tests/with_python.sh numpy tests/numpy_check.py build/bin

From whole.X, whole.A, ... and whole.dY, the random gradient that comes from above, every output and gradient is
computed again and compared with whole.*, with split.*, with the ranks' parts put together, and with each part's
own place. It shares no line with the C++ code: not the reader of files, not the mathematics."""
import json
import struct
import subprocess
import sys
import tempfile

import numpy as np

from numpy_attention import Attention


def read_safetensors(path):
    """8 bytes little-endian length of the header, the header as JSON, the data."""
    with open(path, "rb") as file:
        content = file.read()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            kind = {"F32": "<f4", "F64": "<f8", "I32": "<i4"}[entry["dtype"]]
            tensors[name] = np.frombuffer(data[begin:end], kind).reshape(entry["shape"])
    return tensors


def relu(x):
    return np.maximum(x, 0), (x > 0).astype(float)


def gelu(x):
    """Hendrycks and Gimpel's tanh form, and its slope."""
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    th = np.tanh(inner)
    return x / 2 * (1 + th), (1 + th) / 2 + x / 2 * (1 - th**2) * slope


def linear(w, _):
    return {"Y": w["X"] @ w["A"] + w["c"], "dX": w["dY"] @ w["A"].T, "dA": w["X"].T @ w["dY"],
            "dc": w["dY"].sum(0, keepdims=True)}


def mlp(w, f):
    h, slope = f(w["X"] @ w["A"] + w["c1"])
    dp = (w["dY"] @ w["B"].T) * slope
    return {"H": h, "Y": h @ w["B"] + w["c2"], "dX": dp @ w["A"].T, "dA": w["X"].T @ dp,
            "dc1": dp.sum(0, keepdims=True), "dB": h.T @ w["dY"], "dc2": w["dY"].sum(0, keepdims=True)}


LINEAR = {"X", "A", "c", "dY", "Y", "dX", "dA", "dc"}

# The lessons: executable, flags, formula, f; the names whose second word is another way to the same matrix; what
# is cut by rows (0), by columns (1) or into the columns that a function of the rank names, all else being whole on
# every rank; the numbers of ranks.
MLP_CUTS = {"A": 1, "c1": 1, "B": 0, "H": 1, "dA": 1, "dc1": 1, "dB": 0}
PLAIN = {"dA_plain": 1, "dc1_plain": 1, "dB_plain": 1, "dc2_plain": 1}
PLAIN_NAMES = ["Y_plain", "dX_plain", *PLAIN]
ONE = ["--steps", "60", "--text", __file__]
SIZES = ["--tokens", "12", "--width", "20", "--ffn", "32"]  # unequal: equal ones would hide a transposed operand
LESSONS = [
    ("01_mlp", ONE, mlp, gelu, [], {}, [None]),
    ("02_column_split", [], linear, None, [], {"A": 1, "c": 1, "dA": 1, "dc": 1}, [1, 2, 4]),
    ("03_row_split", [], linear, None, ["Y_scattered", "dX_scattered"],
     {"X": 1, "A": 0, "dX": 1, "dA": 0, "Y_scattered": 0, "dX_scattered": 1}, [1, 2, 4]),
    ("04_mlp_block", [], mlp, gelu, PLAIN_NAMES, {**MLP_CUTS, **PLAIN}, [1, 2, 4]),
    ("04_mlp_block", ["--activation", "relu"], mlp, relu, PLAIN_NAMES, {**MLP_CUTS, **PLAIN}, [1, 2, 4]),
]
LESSONS = [(name, SIZES + flags, *rest) for name, flags, *rest in LESSONS]
# Lesson 07's dump has a whole model beside; of it, the linear layer. 5 sequences on 2 to 4 ranks: unequal parts.
LESSONS.append(("07_data_parallel", "--batch 5 --seq 3 --width 8 --heads 2 --layers 1 --steps 1".split(), linear, None,
                [], {"X": 0, "Y": 0, "dX": 0, "dY": 0}, [1, 2, 3, 4]))
for mask, kv_heads, block in [("causal", 6, False), ("none", 3, False), ("padding", 1, False), ("causal", 6, True),
                              ("padding", 3, True), ("none", 1, True)]:
    formula = Attention(mask, 6, kv_heads, block)
    LESSONS.append(("05_attention_heads", formula.flags, formula, gelu if block else None, [], formula.cuts,
                    [1, 2, 3, 6] if kv_heads in (1, 6) else [1, 3]))


def check(dump, formula, f, others, cuts, ranks, tolerance, sequences):
    """What does not hold, as a list of sentences."""
    ranks = ranks or 1
    weights = {linear: ["A", "c"], mlp: ["A", "c1", "B", "c2"]}.get(formula) or formula.weights
    whole = {name: dump["whole." + name].astype(float) for name in ["X", "dY", *weights]}
    results = formula(whole, f)
    results.update({name: results[name.split("_")[0]] for name in others})
    truth = {**whole, **results}
    expected = {"whole." + n for n in truth} | {"split." + n for n in results}
    expected |= {f"rank{r}.{n}" for r in range(ranks) for n in truth}
    faults = [f"{n} is {'missing' if n in expected else 'not expected'}" for n in expected ^ dump.keys()]

    def compare(name, tensor, reference):
        if tensor.shape != reference.shape:
            faults.append(f"{name} has the shape {tensor.shape}, not {reference.shape}")
            return
        error, scale = np.abs(tensor - reference).max(), np.abs(reference).max()
        if not error <= tolerance * scale:  # written so that NaN fails
            faults.append(f"{name} is off by {error:.3g}, {tolerance * scale:.3g} is allowed")

    for name in sorted(expected & dump.keys()):
        place, matrix = name.split(".", 1)
        reference = truth[matrix]
        if place.startswith("rank") and callable(cuts.get(matrix)):
            reference = reference[:, cuts[matrix](int(place[4:]), ranks)]
        elif place.startswith("rank") and matrix in cuts:
            units, rank = np.split(np.arange(reference.shape[cuts[matrix]]), sequences or ranks), int(place[4:])
            own = units[len(units) * rank // ranks : len(units) * (rank + 1) // ranks]
            reference = reference.take(np.concatenate(own), cuts[matrix])
        compare(name, dump[name], reference)
    for matrix, axis in cuts.items():
        if callable(axis) or matrix not in truth:
            continue
        parts = [dump[f"rank{r}.{matrix}"] for r in range(ranks) if f"rank{r}.{matrix}" in dump]
        compare(f"rank*.{matrix} put together", np.concatenate(parts, axis), truth[matrix])
    return faults


def philox(counter, key):
    """Philox 4x32-10: Salmon, Moraes, Dror, Shaw, SC 2011."""
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [b >> 32 ^ counter[1] ^ key[0], b & 0xFFFFFFFF, a >> 32 ^ counter[3] ^ key[1], a & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def check_batch(folder, scratch):
    """The batch order of lesson 08, as its page has it."""
    batch, seq, seed, stream = 8, 12, 5, 14695981039346656037
    for letter in b"batches":
        stream = (stream ^ letter) * 1099511628211 % 2**64  # FNV-1a
    subprocess.run([f"{folder}/08_three_d", *f"--batch {batch} --microbatches 2 --seq {seq} --seed {seed} --steps 1".split(),
                    "--quiet", "--text", __file__, "--dump", scratch + "/08"], check=True, capture_output=True)
    dump, text = read_safetensors(scratch + "/08"), open(__file__, "rb").read()
    places = [philox([i // 4, 0, stream % 2**32, stream >> 32], [seed, 0])[i % 4] % (len(text) - seq)
              for i in range(batch)]
    for name, shift in (("ids", 0), ("targets", 1)):
        expected = [byte for at in places for byte in text[at + shift : at + shift + seq]]
        if dump["whole." + name].ravel().tolist() != expected:
            sys.exit(f"08: the {name} are not those that the page describes")


def main():
    folder, held = sys.argv[1], 0
    with tempfile.TemporaryDirectory() as scratch:
        check_batch(folder, scratch)
        file = scratch + "/dump.safetensors"
        for name, flags, formula, f, others, cuts, all_ranks in LESSONS:
            for ranks in all_ranks:
                for dtype, tolerance in (("f32", 1e-5), ("f64", 1e-12)):
                    for exact in (False, True):
                        if exact and (name.startswith("07") or isinstance(formula, Attention) and formula.block):
                            continue  # a layer norm is exact nowhere
                        line = [f"{folder}/{name}", *flags, "--dtype", dtype, "--dump", file, "--quiet"]
                        line += ["--ranks", str(ranks)] if ranks else []
                        line += ["--exact"] if exact else []
                        run = subprocess.run(line, capture_output=True, text=True)
                        if run.returncode != 0:
                            sys.exit(f"{' '.join(line)}\nends with {run.returncode}\n{run.stdout}{run.stderr}")
                        # The exact tier takes relu, and integers: no rounding anywhere.
                        if isinstance(formula, Attention):
                            formula.exact = exact
                        dump = read_safetensors(file)
                        if name.startswith("07"):
                            dump = {key: x for key, x in dump.items() if key.split(".", 1)[1] in LINEAR}
                        faults = check(dump, formula, relu if exact else f, others, cuts, ranks,
                                       0 if exact else tolerance, 5 if name.startswith("07") else None)
                        if faults:
                            sys.exit("\n  ".join([" ".join(line), *faults]))
                        held += 1
    print(f"numpy agrees with {held} dumps of {len(LESSONS)} lessons and variants")


if __name__ == "__main__":
    main()
