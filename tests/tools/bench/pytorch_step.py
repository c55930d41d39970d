#!/usr/bin/env python3
"""The GPT step of gpt.cpp in PyTorch, in turns with ours, its attention alone, and the step cut over two processes
(pytorch_gloo.py): what `./tessera bench --pytorch PYTHON` runs.

Same sizes and mathematics: GPT-2 with tanh gelu, tied embedding, causal attention, f32, AdamW. Prints JSON; says
which PyTorch, and which BLAS, on standard error.
"""
import argparse
import contextlib
import json
import os
import signal
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


def adamw(parameters):
    try:  # the fastest there is: newer PyTorch has it on the CPU too
        return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)
    except (RuntimeError, TypeError, ValueError):
        return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01)


def step_of(o, compiled):
    device = torch.device(o.device)
    torch.manual_seed(1)
    model = Gpt(o).to(device)
    optimizer = adamw(model.parameters())
    loss_of = torch.compile(model) if compiled else model
    ids, targets = torch.randint(o.vocabulary, (2, o.batch, o.seq), device=device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        # f32 masters, and bf16 where products and attention compute, as ours
        with torch.autocast("cuda", torch.bfloat16, enabled=o.bf16):
            loss = loss_of(ids, targets)
        loss.backward()
        optimizer.step()

    return timed(o, step)


def attention_of(o):
    """Causal attention forward and backward, by PyTorch's own kernel; None before 2.0."""
    if not hasattr(F, "scaled_dot_product_attention"):
        return None
    shape = (o.batch, o.heads, o.seq, o.width // o.heads)
    dtype = torch.bfloat16 if o.bf16 else torch.float32
    q, k, v, dy = (torch.randn(shape, device=o.device, dtype=dtype, requires_grad=i < 3) for i in range(4))

    def step():
        torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), dy)

    return timed(o, step)


def timed(o, step):
    """A function that takes the step and returns its seconds."""
    def synchronize():
        if o.device == "cuda":
            torch.cuda.synchronize()

    def seconds():
        synchronize()
        begin = time.perf_counter()
        step()
        synchronize()
        return time.perf_counter() - begin

    return seconds


def stat_of_all():
    """Of each process its parent and its time on cores, that of its ended children included, in ticks."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stat:
                words = stat.read().rsplit(")", 1)[1].split()
        except OSError:  # it has ended
            continue
        found[int(name)] = int(words[1]), sum(map(int, words[11:15]))
    return found


def family_of(process, found):
    """The process and all below it."""
    family = [process]
    for one in family:
        family += [other for other, (parent, _) in found.items() if parent == one]
    return family


class Server:
    """A program that takes its step for each line of input, and prints the seconds. Between two steps all its processes
    are stopped, so that ranks which wait for the next one do not poll while the other side takes its turn."""

    def __init__(self, *command):
        self.command = command
        self.program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def signal(self, number):
        for process in family_of(self.program.pid, stat_of_all()):
            try:
                os.kill(process, number)
            except ProcessLookupError:  # it has ended
                pass

    def __call__(self):
        try:
            self.signal(signal.SIGCONT)
            self.program.stdin.write("\n")
            seconds = float(self.program.stdout.readline())
            self.signal(signal.SIGSTOP)
            return seconds
        except (BrokenPipeError, ValueError):
            raise RuntimeError("it has ended: " + " ".join(self.command)) from None

    def close(self):
        self.signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it has ended, and a line for it is still in the buffer
            self.program.stdin.close()
        self.program.wait()


def own_seconds():
    """Of this process and all below it, the time on cores so far."""
    found = stat_of_all()
    return sum(found[one][1] for one in family_of(os.getpid(), found)) / os.sysconf("SC_CLK_TCK")


class Others:
    """The share of the cores that other processes than ours and PyTorch's took: measure.cpp has the same."""

    def __init__(self):
        self.began, self.busy, self.own = time.perf_counter(), self.read(), own_seconds()

    def read(self):
        with open("/proc/stat") as stat:
            cpu = [int(word) for word in stat.readline().split()[1:9]]
        return (sum(cpu) - cpu[3] - cpu[4]) / os.sysconf("SC_CLK_TCK")

    def share(self):
        others = self.read() - self.busy - (own_seconds() - self.own)
        return (others - 0.03) / ((time.perf_counter() - self.began) * threads)


def measure(o, jobs, where):
    """The ratio of each of the jobs (name, what, target, make_ours, make_theirs). What they make returns the seconds
    of a step; make_theirs may return None.

    A job that PyTorch cannot run, such as one whose compiler lacks a part on this machine, does not take the
    results of the others with it. Returns the ratios, and what the others said.
    """
    ratios, failed = [], {}
    for name, what, target, make_ours, make_theirs in jobs:
        servers = []
        try:
            theirs = make_theirs()
            if theirs is None:
                continue
            ours = make_ours()
            servers = [side for side in (theirs, ours) if isinstance(side, Server)]
            for _ in range(3):  # pools, caches, and what torch.compile does
                theirs(), ours()
            turns, spare = [], 2 * o.turns
            while len(turns) < o.turns:
                others = Others()
                first, own = theirs(), ours()
                own, first = (own + ours()) / 2, (first + theirs()) / 2
                if others.share() > 0.1 and spare > 0:
                    spare -= 1
                    continue
                turns.append((first, own))
        except Exception as fault:  # whatever a compiler throws
            failed[name] = f"{type(fault).__name__}: {fault}".splitlines()[0]
            print(f"{name}: {failed[name]}", file=sys.stderr)
            continue
        finally:
            for server in servers:
                server.close()
        middle = [1e3 * sorted(side)[len(turns) // 2] for side in zip(*turns)]
        ratios.append({
            "name": name,
            "turns": [first / own for first, own in turns],
            "target": target,
            "what": f"PyTorch {torch.__version__}'s {what} over ours, {middle[0]:.4g} ms and {middle[1]:.4g} ms; "
                    f"{where}"})
    return ratios, failed


def arguments(parser):
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    for name, value in [("vocabulary", 256), ("seq", 128), ("batch", 8), ("width", 256), ("layers", 4), ("heads", 4)]:
        parser.add_argument("--" + name, type=int, default=value)
    return parser


def main():
    parser = arguments(argparse.ArgumentParser())
    parser.add_argument("--tessera", required=True, help="the program tessera_bench")
    parser.add_argument("--mpirun", default="", help="what starts it as two processes")
    parser.add_argument("which", choices=["whole", "cut"])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    o = parser.parse_args()
    cuda, newest = o.device == "cuda", int(torch.__version__.split(".")[0]) >= 2
    if cuda:
        torch.backends.cuda.matmul.allow_tf32 = o.tf32
    else:
        torch.set_num_threads(threads)
    flags = [flag for flag, wanted in [("--quick", o.quick), ("--tf32", o.tf32), ("--bf16", o.bf16)] if wanted]

    def ours(step, *launcher):
        return lambda: Server(*launcher, o.tessera, "--serve", step, "--device", o.device, *flags)

    def gloo(way):
        sizes = [word for name in ("vocabulary", "seq", "batch", "width", "layers", "heads")
                 for word in ("--" + name, str(getattr(o, name)))]
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pytorch_gloo.py")
        return lambda: Server(sys.executable, "-B", script, way, *sizes)

    where = torch.cuda.get_device_name() if cuda else f"{threads} threads, {blas_of_this_process()}"
    print(f"PyTorch {torch.__version__}: {where}", file=sys.stderr)
    jobs = []
    if o.which == "whole":
        jobs.append(("gpt.speed_vs_pytorch", "step", None if cuda else 1.2 if newest else 1.15, ours("step"),
                     lambda: step_of(o, False)))
        if newest:
            jobs.append(("gpt.speed_vs_pytorch_compiled", "compiled step", None if cuda else 1.0, ours("step"),
                         lambda: step_of(o, True)))
        jobs.append(("attention.speed_vs_pytorch", "attention", None, ours("attention"), lambda: attention_of(o)))
    else:
        where = "two processes of one thread, gloo"
        for way, peer, what in [("tp", "pytorch_gloo", "step with tensor parallelism"),
                                ("pipeline", "pytorch", "step as a pipeline"), ("dp", "pytorch", "step under DDP")]:
            jobs.append((f"{way}.speed_vs_{peer}", what, 2.0, ours(way), gloo(way)))
            if o.mpirun:
                jobs.append((f"{way}.speed_vs_{peer}_mpi", what, 2.0, ours(way, *o.mpirun.split()), gloo(way)))
    ratios, failed = measure(o, jobs, where)
    print(json.dumps({"ratios": ratios, "failed": failed}))


if __name__ == "__main__":
    main()
