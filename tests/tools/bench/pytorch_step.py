#!/usr/bin/env python3
"""The GPT step of gpt.cpp in PyTorch, in turns with ours, and its attention alone: what
`./tessera bench --pytorch PYTHON` runs.

Same sizes and mathematics: GPT-2 with tanh gelu, tied embedding, causal attention, f32, AdamW. Prints JSON; says
which PyTorch, and which BLAS, on standard error.
"""
import argparse
import json
import os
import subprocess
import sys
import time

threads = os.cpu_count() or 1
os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # read by libraries as they load

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402


class Block(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.c_attn, self.c_proj = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.c_fc, self.c_out = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x):
        batch, seq, width = x.shape
        split = (batch, seq, self.heads, width // self.heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).split(width, 2))
        if hasattr(F, "scaled_dot_product_attention"):
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:  # before 2.0
            scores = q @ k.transpose(2, 3) * (width // self.heads) ** -0.5
            mask = torch.ones(seq, seq, dtype=torch.bool, device=x.device).tril()
            o = scores.masked_fill(~mask, float("-inf")).softmax(3) @ v
        x = x + self.c_proj(o.transpose(1, 2).reshape(batch, seq, width))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt(torch.nn.Module):
    def __init__(self, o):
        super().__init__()
        self.wte, self.wpe = torch.nn.Embedding(o.vocabulary, o.width), torch.nn.Embedding(o.seq, o.width)
        self.blocks = torch.nn.ModuleList(Block(o.width, o.heads) for _ in range(o.layers))
        self.ln_f = torch.nn.LayerNorm(o.width)

    def forward(self, ids, targets):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = self.ln_f(x) @ self.wte.weight.t()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def blas_of_this_process():
    """MKL comes inside of PyPI's wheels; Debian's links to whatever libblas is chosen there."""
    if torch.backends.mkl.is_available():
        return "MKL"
    with open("/proc/self/maps") as maps:
        files = {line.split()[-1] for line in maps if "blas" in line}
    return ", ".join(sorted(files)) or "a BLAS of its own"


def step_of(o, compiled):
    device = torch.device(o.device)
    torch.manual_seed(1)
    model = Gpt(o).to(device)
    try:  # the fastest there is: newer PyTorch has it on the CPU too
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    except (RuntimeError, TypeError, ValueError):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    loss_of = torch.compile(model) if compiled else model
    ids, targets = torch.randint(o.vocabulary, (2, o.batch, o.seq), device=device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        # f32 masters, and bf16 where products and attention compute, as ours
        with torch.autocast("cuda", torch.bfloat16, enabled=o.bf16):
            loss = loss_of(ids, targets)
        loss.backward()
        optimizer.step()

    return step


def attention_of(o):
    """Causal attention forward and backward, by PyTorch's own kernel; None before 2.0."""
    if not hasattr(F, "scaled_dot_product_attention"):
        return None
    shape = (o.batch, o.heads, o.seq, o.width // o.heads)
    dtype = torch.bfloat16 if o.bf16 else torch.float32
    q, k, v, dy = (torch.randn(shape, device=o.device, dtype=dtype, requires_grad=i < 3) for i in range(4))

    def step():
        torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), dy)

    return step


def seconds(o, step):
    def synchronize():
        if o.device == "cuda":
            torch.cuda.synchronize()

    synchronize()
    begin = time.perf_counter()
    step()
    synchronize()
    return time.perf_counter() - begin


class Others:
    """The share of the cores that other processes than these two took: measure.cpp has the same."""

    def __init__(self, child):
        self.child, self.began = child, time.perf_counter()
        self.busy, self.own = self.read()

    def read(self):
        tick = os.sysconf("SC_CLK_TCK")
        with open("/proc/stat") as stat:
            cpu = [int(word) for word in stat.readline().split()[1:9]]
        with open(f"/proc/{self.child}/stat") as stat:
            child = stat.read().rsplit(")", 1)[1].split()[11:13]
        return (sum(cpu) - cpu[3] - cpu[4]) / tick, time.process_time() + sum(map(int, child)) / tick

    def share(self):
        busy, own = self.read()
        return (busy - self.busy - (own - self.own) - 0.03) / ((time.perf_counter() - self.began) * threads)


def measure(o, jobs, our_seconds, child, where):
    """The ratio of each of the jobs (name, ours, target, make), where make() gives PyTorch's step, or None.

    A job that PyTorch cannot run, such as one whose compiler lacks a part on this machine, does not take the
    results of the others with it. Returns the ratios, and what the others said.
    """
    ratios, failed = [], {}
    for name, job, target, make in jobs:
        try:
            step = make()
            if step is None:
                continue
            for _ in range(3):  # pools, caches, and what torch.compile does
                seconds(o, step), our_seconds(job)
            turns, spare = [], 2 * o.turns
            while len(turns) < o.turns:
                others = Others(child)
                theirs, own = seconds(o, step), our_seconds(job)
                own, theirs = (own + our_seconds(job)) / 2, (theirs + seconds(o, step)) / 2
                if others.share() > 0.1 and spare > 0:
                    spare -= 1
                    continue
                turns.append((theirs, own))
        except Exception as fault:  # whatever a compiler throws
            failed[name] = f"{type(fault).__name__}: {fault}".splitlines()[0]
            print(f"{name}: {failed[name]}", file=sys.stderr)
            continue
        middle = [1e3 * sorted(side)[len(turns) // 2] for side in zip(*turns)]
        ratios.append({
            "name": name,
            "turns": [theirs / own for theirs, own in turns],
            "target": target,
            "what": f"PyTorch {torch.__version__}'s {job} over ours, {middle[0]:.4g} ms and {middle[1]:.4g} ms; "
                    f"{where}"})
    return ratios, failed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tessera", required=True, help="the program tessera_bench")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    for name, value in [("turns", 15), ("vocabulary", 256), ("seq", 128), ("batch", 8), ("width", 256),
                        ("layers", 4), ("heads", 4)]:
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    o = parser.parse_args()
    if o.device == "cpu":
        torch.set_num_threads(threads)
    else:
        torch.backends.cuda.matmul.allow_tf32 = o.tf32
    flags = [flag for flag, wanted in [("--quick", o.quick), ("--tf32", o.tf32), ("--bf16", o.bf16)] if wanted]
    ours = subprocess.Popen([o.tessera, "--serve", "--device", o.device, *flags], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True, bufsize=1)

    def our_seconds(job):
        ours.stdin.write(job + "\n")
        said = ours.stdout.readline()
        if not said:
            sys.exit("tessera_bench --serve has ended")
        return float(said)

    newest = int(torch.__version__.split(".")[0]) >= 2
    where = torch.cuda.get_device_name() if o.device == "cuda" else f"{threads} threads, {blas_of_this_process()}"
    print(f"PyTorch {torch.__version__}: {where}", file=sys.stderr)
    target = None if o.device == "cuda" else 1.0 if newest else 1.15
    jobs = [("gpt.speed_vs_pytorch", "step", target, lambda: step_of(o, False))]
    if o.device == "cuda" and newest:
        jobs.append(("gpt.speed_vs_pytorch_compiled", "step", None, lambda: step_of(o, True)))
    jobs.append(("attention.speed_vs_pytorch", "attention", None, lambda: attention_of(o)))
    ratios, failed = measure(o, jobs, our_seconds, ours.pid, where)
    ours.stdin.close()
    ours.wait()
    print(json.dumps({"ratios": ratios, "failed": failed}))


if __name__ == "__main__":
    main()
