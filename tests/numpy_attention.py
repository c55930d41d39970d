"""Lesson 05 in numpy: attention by head and the transformer block, by GPT-2's names. tests/numpy_check.py uses it."""
import numpy as np

BATCH, SEQ, WIDTH = 2, 5, 24


class Attention:
    """formula(w, f) gives the outputs and every gradient; f is the MLP's function of a block, None without one."""

    def __init__(self, mask, heads, kv_heads, block):
        self.mask, self.heads, self.kv_heads, self.block, self.exact = mask, heads, kv_heads, block, False
        layers = ["attn.c_attn", "attn.c_proj"] + (["ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj"] if block else [])
        self.weights = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
        sizes = {"batch": BATCH, "seq": SEQ, "width": WIDTH, "heads": heads, "kv-heads": kv_heads, "mask": mask,
                 "part": "block" if block else "attention"}
        self.flags = [word for name, size in sizes.items() for word in ("--" + name, str(size))]
        by_columns = ["O", "mlp.c_fc.weight", "mlp.c_fc.bias", "dmlp.c_fc.weight", "dmlp.c_fc.bias"]
        by_rows = ["attn.c_proj.weight", "dattn.c_proj.weight", "mlp.c_proj.weight", "dmlp.c_proj.weight"]
        fused = [d + "attn.c_attn." + part for d in ("", "d") for part in ("weight", "bias")]
        self.cuts = {**{name: 1 for name in by_columns}, **{name: 0 for name in by_rows},
                     **{name: self.columns for name in fused}}

    def columns(self, rank, ranks):
        """The columns of [Q | K | V] that a rank has: those of its heads in each. All ranks have a single kv head."""
        keys = WIDTH // self.heads * self.kv_heads
        parts = np.split(np.arange(WIDTH + 2 * keys), [WIDTH, WIDTH + keys])
        shared = self.kv_heads % ranks != 0
        return np.concatenate([parts[0].reshape(ranks, -1)[rank]] +
                              [part if shared else part.reshape(ranks, -1)[rank] for part in parts[1:]])

    def seen(self):
        """Whether query i of sequence b may look at key j: (batch, 1, query, key)."""
        i, j, b = np.arange(SEQ)[:, None], np.arange(SEQ), np.arange(BATCH)[:, None, None, None]
        last = {"causal": i + 1, "none": SEQ, "padding": SEQ - b * SEQ // (2 * BATCH)}[self.mask]
        return j < last

    def core(self, q, k, v):
        """o, and the function that makes dq, dk, dv of do. All are (batch, heads, seq, d)."""
        if self.exact:  # the exact tier has a linear stand-in for the softmax
            return q + k + v, lambda do: (do, do, do)
        root = np.sqrt(q.shape[-1])
        scores = np.where(self.seen(), q @ k.swapaxes(2, 3) / root, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)

        def backward(do):
            dp = do @ v.swapaxes(2, 3)
            ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / root
            return ds @ k, ds.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ do

        return p @ v, backward

    def __call__(self, w, f):
        results, group = {}, self.heads // self.kv_heads

        def linear(name, x):
            def backward(dy):
                results.update({f"d{name}.weight": x.T @ dy, f"d{name}.bias": dy.sum(0, keepdims=True)})
                return dy @ w[name + ".weight"].T

            return x @ w[name + ".weight"] + w[name + ".bias"], backward

        def norm(name, x):
            inverse = 1 / np.sqrt(x.var(1, keepdims=True) + 1e-5)
            unit = (x - x.mean(1, keepdims=True)) * inverse

            def backward(dy):
                results.update({f"d{name}.weight": (dy * unit).sum(0, keepdims=True),
                                f"d{name}.bias": dy.sum(0, keepdims=True)})
                g = dy * w[name + ".weight"]
                return inverse * (g - g.mean(1, keepdims=True) - unit * (g * unit).mean(1, keepdims=True))

            return unit * w[name + ".weight"] + w[name + ".bias"], backward

        def split(x):  # (tokens, heads d) -> (batch, heads, seq, d)
            return x.reshape(BATCH, SEQ, -1, WIDTH // self.heads).swapaxes(1, 2)

        def join(x):
            return x.swapaxes(1, 2).reshape(BATCH * SEQ, -1)

        def attention(x):
            qkv, qkv_backward = linear("attn.c_attn", x)
            q, k, v = (split(part) for part in np.split(qkv, [WIDTH, WIDTH + WIDTH // group], 1))
            o, core_backward = self.core(q, k.repeat(group, 1), v.repeat(group, 1))
            if not self.block:
                results["O"] = join(o)
            y, proj_backward = linear("attn.c_proj", join(o))

            def backward(dy):
                dq, dk, dv = core_backward(split(proj_backward(dy)))
                dk, dv = (d.reshape(BATCH, -1, group, *d.shape[2:]).sum(2) for d in (dk, dv))
                return qkv_backward(np.concatenate([join(dq), join(dk), join(dv)], 1))

            return y, backward

        if not self.block:
            y, backward = attention(w["X"])
            return {"Y": y, "dX": backward(w["dY"]), **results}
        n1, norm_1 = norm("ln_1", w["X"])
        a, attention_backward = attention(n1)
        n2, norm_2 = norm("ln_2", w["X"] + a)
        pre, fc_backward = linear("mlp.c_fc", n2)
        h, slope = f(pre)
        m, proj_backward = linear("mlp.c_proj", h)
        dmiddle = w["dY"] + norm_2(fc_backward(proj_backward(w["dY"]) * slope))
        return {"Y": w["X"] + a + m, "dX": dmiddle + norm_1(attention_backward(dmiddle)), **results}
