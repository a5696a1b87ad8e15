"""A small GPT-2 trained with PyTorch alone, until its full-validation loss is low enough.

    python -m benchmarks.quality_time_peer RECIPE.json

beside train.npy and dev.npy, the ids of both splits. Its last line is JSON: the seconds of the
first step, where it compiles, of the other steps, and of evaluation. Run by
`benchmarks.quality_time`; it imports nothing of ours, so that its seconds are PyTorch's own.
"""

import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

EVALUATION_ROWS = 64


def main(path: Path) -> None:
    recipe = json.loads(path.read_text())
    torch.manual_seed(recipe['train.seed'])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    context, steps = recipe['model.max_length'], recipe['train.steps']
    train, dev = (windows(path.parent / f'{split}.npy', context) for split in ('train', 'dev'))
    rows = recipe['data.batch_tokens'] // context
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=recipe['model.vocab_size'], n_positions=context,
        n_embd=recipe['model.d_model'], n_layer=recipe['model.num_decoder_layers'],
        n_head=recipe['model.num_heads'], n_inner=recipe['model.d_ff'],
        activation_function=recipe['model.activation'], embd_pdrop=0.0, resid_pdrop=0.0,
        attn_pdrop=0.0, layer_norm_epsilon=recipe['model.norm_epsilon'],
        attn_implementation='sdpa', bos_token_id=None, eos_token_id=None))
    optimizer = torch.optim.AdamW(
        [{'params': [p for p in model.parameters() if p.ndim > 1],
          'weight_decay': recipe['optim.weight_decay']},
         {'params': [p for p in model.parameters() if p.ndim < 2], 'weight_decay': 0.0}],
        betas=(recipe['optim.beta1'], recipe['optim.beta2']), eps=recipe['optim.epsilon'],
        fused=True)

    def plain_loss(ids_BT: torch.Tensor) -> torch.Tensor:
        logits_BTV = model(ids_BT[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())

    loss_of = torch.compile(plain_loss) if recipe['compile'] else plain_loss
    order = torch.randperm(len(train))
    spent = {'first_step': 0.0, 'steps': 0.0, 'evaluate': 0.0}
    for step in range(steps):
        began = time.perf_counter()
        at = step * rows % (len(train) - rows)
        if at < rows:
            order = torch.randperm(len(train))
        loss = loss_of(train[order[at:at + rows]])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe['optim.clip_norm'])
        for group in optimizer.param_groups:
            group['lr'] = learning_rate(step + 1, recipe)
        optimizer.step()
        spent['steps' if step else 'first_step'] += time.perf_counter() - began
        if (step + 1) % recipe['train.eval_every'] == 0:
            began = time.perf_counter()
            with torch.inference_mode():
                found = sum(plain_loss(part).item() * len(part)
                            for part in dev.split(EVALUATION_ROWS)) / len(dev)
            spent['evaluate'] += time.perf_counter() - began
            print(f'step {step + 1}: {found:.4f}', flush=True)
            if found <= recipe['loss']:
                print(json.dumps({part: round(seconds, 3) for part, seconds in spent.items()}))
                return
    sys.exit(f'still at {found:.4f} after {steps} steps')


def windows(path: Path, context: int) -> torch.Tensor:
    """ids of [windows, context + 1]: each begins with the last id of the one before."""
    ids = torch.from_numpy(np.load(path).astype(np.int64))
    return ids.unfold(0, context + 1, context)


def learning_rate(n: int, recipe: dict) -> float:
    """Linear warm-up, then half a cosine; update n = 1, 2, ..."""
    peak, warmup = recipe['optim.peak_learning_rate'], recipe['optim.warmup_steps']
    if n < warmup:
        return peak * n / warmup
    progress = (n - warmup) / (recipe['train.steps'] - warmup)
    final = recipe['optim.final_fraction']
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
