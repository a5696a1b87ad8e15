"""PyTorch's side of `benchmarks.gpu`, as `benchmarks.gpu_sections` is ours, on the same work.

JAX runs on the CPU here (JAX_PLATFORMS=cpu) and only makes the weights: the same as ours.
"""

import json
import sys
from functools import partial

import jax
import torch
import transformers

from benchmarks import train_bert, train_gpt, train_seq2seq
from benchmarks.decode import theirs
from benchmarks.gpu_sections import batches_of, configured, prompts, updated, written
from benchmarks.huggingface import bert_for_pretraining, gpt2, marian
from benchmarks.results import OURS
from benchmarks.timing import alternate
from benchmarks.training import Peer
from experiments import cli
from xformer.config import Config, override
from xformer.data.objectives import real_tokens
from xformer.models import build, init_params

MODELS = {'gpt2': gpt2, 'bert-base': bert_for_pretraining, 'transformer-big': marian}


def device() -> dict:
    """What computes here."""
    return {'cuda': torch.cuda.is_available(), 'torch': torch.__version__,
            'transformers': transformers.__version__}


def train(model: str, rows: int, length: int, changes: dict | None = None, rounds: int = 8,
          updates: int = 10) -> dict:
    """As ours: attention by scaled_dot_product_attention, under autocast, the loss compiled."""
    config = configured(model, changes or {})
    batches = batches_of(model, config, rows, length, updates)
    loss_of = {'gpt2': train_gpt.loss_of, 'bert-base': train_bert.loss_of,
               'transformer-big': train_seq2seq.make_loss(config.optim.label_smoothing)}[model]
    with torch.device(_here()):
        peer = Peer(config, MODELS[model](config.model, _params(config)), torch.compile(loss_of))
    checks = [[float(value) for value in peer.step(batches[0])] for _ in range(2)]
    rounds = alternate({OURS: partial(updated, peer, batches)}, rounds, model)
    return {'seconds': [row[OURS] for row in rounds], 'checks': checks,
            'tokens': sum(map(real_tokens, batches)), 'parameters': peer.num_parameters,
            'memory_mib': torch.cuda.max_memory_allocated() // 2**20}


def decode(rows: int, prompt: int, new: int, how: str, changes: dict | None = None,
           rounds: int = 5) -> dict:
    """As ours: by `generate`, eager or compiled, in bfloat16."""
    config = override(configured('gpt2', changes or {}), {'decode.beam_size': 1})
    write = theirs(config, _params(config), prompts(rows, prompt, config), how, _here())
    return written(partial(write, new), rounds)


def _params(config: Config) -> dict:
    """Those that ours begins with."""
    init = jax.jit(partial(init_params, build(config)))
    return jax.device_get(init(jax.random.key(config.train.seed)))


def _here() -> str:
    return 'cuda' if torch.cuda.is_available() else 'cpu'


if __name__ == '__main__':
    cli.prepare_jax()
    torch.set_float32_matmul_precision('high')
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
