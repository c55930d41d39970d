#!/usr/bin/env python3
"""pytorch_gloo.py tp|pipeline|dp [SIZES]: the GPT step of pytorch_step.py, cut over two processes of one thread each
that speak by gloo. For each line of input it takes a step and prints the seconds. Before the first one it compares its
loss with the uncut model's.

tp: column- and row-parallel linear layers by hand, as Megatron-LM has them (Shoeybi et al. 2019, section 3), two
all-reduces a layer each way; embedding and head are whole on both. pipeline: torch.distributed.pipelining, 1F1B, 4
microbatches, the gradients of the tied embedding summed over both stages. dp: DistributedDataParallel.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time

os.environ["OMP_NUM_THREADS"] = "1"  # read by libraries as they load

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from pytorch_step import Gpt, adamw, arguments  # noqa: E402

microbatches = 4


class ToEach(torch.autograd.Function):
    """Megatron-LM's f: each rank computes a part from the whole x, so the gradients of x are summed."""

    @staticmethod
    def forward(context, x):
        return x

    @staticmethod
    def backward(context, dx):
        dx = dx.contiguous()
        dist.all_reduce(dx)
        return dx


class FromEach(torch.autograd.Function):
    """Megatron-LM's g: y is the sum of the ranks' terms."""

    @staticmethod
    def forward(context, y):
        y = y.contiguous()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(context, dy):
        return dy


class TensorParallelBlock(torch.nn.Module):
    """The block of pytorch_step.py on this rank's heads and columns of the hidden layer."""

    def __init__(self, block, rank, size):
        super().__init__()
        width = block.ln_1.normalized_shape[0]
        self.heads = block.heads // size
        self.ln_1, self.ln_2 = block.ln_1, block.ln_2
        own = torch.cat([part.chunk(size)[rank] for part in torch.arange(3 * width).split(width)])
        self.c_attn, self.c_fc = self.columns(block.c_attn, own), self.columns(
            block.c_fc, torch.arange(4 * width).chunk(size)[rank])
        self.c_proj, self.c_out = self.rows(block.c_proj, rank, size), self.rows(block.c_out, rank, size)

    @staticmethod
    def columns(layer, own):
        mine = torch.nn.Linear(layer.in_features, len(own))
        mine.weight.data, mine.bias.data = layer.weight.data[own].clone(), layer.bias.data[own].clone()
        return mine

    @staticmethod
    def rows(layer, rank, size):  # the bias is added once, after the sum
        mine = torch.nn.Linear(layer.in_features // size, layer.out_features)
        mine.weight.data = layer.weight.data.chunk(size, 1)[rank].clone()
        mine.bias.data = layer.bias.data.clone()
        return mine

    def forward(self, x):
        batch, seq, width = x.shape
        q, k, v = (part.view(batch, seq, self.heads, -1).transpose(1, 2)
                   for part in self.c_attn(ToEach.apply(self.ln_1(x))).chunk(3, 2))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, seq, -1)
        x = x + FromEach.apply(o @ self.c_proj.weight.t()) + self.c_proj.bias
        h = F.gelu(self.c_fc(ToEach.apply(self.ln_2(x))), approximate="tanh")
        return x + FromEach.apply(h @ self.c_out.weight.t()) + self.c_out.bias


class Stage(torch.nn.Module):
    """Half of the layers; both stages have the tied embedding."""

    def __init__(self, gpt, rank, size):
        super().__init__()
        each = len(gpt.blocks) // size
        self.first, self.last = rank == 0, rank == size - 1
        self.wte, self.blocks = gpt.wte, gpt.blocks[rank * each:(rank + 1) * each]
        if self.first:
            self.wpe = gpt.wpe
        if self.last:
            self.ln_f = gpt.ln_f

    def forward(self, x):
        if self.first:
            x = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.t() if self.last else x


def mean_loss(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def step_of(o, rank, size):
    """A step that returns its loss, or None on a rank that has none; and the uncut model's loss."""
    torch.manual_seed(1)
    gpt = Gpt(o)
    ids, targets = torch.randint(o.vocabulary, (2, o.batch, o.seq))
    with torch.no_grad():
        uncut = gpt(ids, targets).item()
    if o.way == "tp":
        gpt.blocks = torch.nn.ModuleList(TensorParallelBlock(block, rank, size) for block in gpt.blocks)
    if o.way == "pipeline":
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B
        stage = Stage(gpt, rank, size)
        optimizer = adamw(stage.parameters())
        schedule = Schedule1F1B(PipelineStage(stage, rank, size, torch.device("cpu")), microbatches, loss_fn=mean_loss)

        def step():
            optimizer.zero_grad(set_to_none=True)
            losses = []
            if rank == 0:
                schedule.step(ids)
            else:
                schedule.step(target=targets, losses=losses)
            dist.all_reduce(stage.wte.weight.grad)
            optimizer.step()
            return sum(losses) / len(losses) if losses else None

        return step, uncut

    model = gpt
    if o.way == "dp":
        model = torch.nn.parallel.DistributedDataParallel(gpt)
        ids, targets = ids.chunk(size)[rank], targets.chunk(size)[rank]
    optimizer = adamw(model.parameters())

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = model(ids, targets)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, uncut


def serve(o, rank, size):
    step, uncut = step_of(o, rank, size)
    loss = step()
    if o.way == "dp":
        dist.all_reduce(loss)
        loss /= size
    if loss is not None and not abs(loss.item() - uncut) < 1e-4:
        sys.exit(f"{o.way}: the loss is {loss.item()}, and the uncut model's is {uncut}")
    go = torch.ones(1)
    while True:
        if rank == 0:
            go[0] = float(sys.stdin.readline() != "")
        dist.broadcast(go, 0)
        if not go.item():
            return
        dist.barrier()
        begin = time.perf_counter()
        step()
        dist.barrier()
        if rank == 0:
            print(time.perf_counter() - begin, flush=True)


def main():
    parser = arguments(argparse.ArgumentParser())
    parser.add_argument("way", choices=["tp", "pipeline", "dp"])
    parser.add_argument("--meet", default="", help="a file in which the second process finds the first")
    o, size = parser.parse_args(), 2
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        meet, other = o.meet or os.path.join(folder, "meet"), None
        if not o.meet:
            other = subprocess.Popen([sys.executable, "-B", *sys.argv, "--meet", meet], stdin=subprocess.DEVNULL)
        dist.init_process_group("gloo", init_method="file://" + meet, rank=0 if other else 1, world_size=size)
        serve(o, dist.get_rank(), size)
        dist.destroy_process_group()
        if other:
            other.wait()


if __name__ == "__main__":
    main()
