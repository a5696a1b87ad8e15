"""Suite train-g2p: the quickstart's training step against PyTorch's own nn.Transformer.

The peer has the same weights, positions, dropout rates in the same places, loss, clipping,
AdamW and batches.
"""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.training import Peer, compare_steps
from benchmarks.weights import copied_linear, copied_norm, load
from benchmarks.work import PAIR_SPECIAL, pair_batch
from experiments.configs import g2p_quickstart
from xformer.config import Config, ModelConfig, override
from xformer.data.objectives import real_tokens
from xformer.nn.positions import sinusoidal
from xformer.nn.stack import unstacked

VOCAB_SIZE = 102  # of CMUdict: letters, phones and special tokens
SHAPES = [(312, 7, 6), (240, 9, 8), (192, 11, 10), (136, 15, 14)]  # 97 % of the run's batches
KERNELS = {  # what may compute the attention
    'eager': [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],  # auto
    'eager-math': [SDPBackend.MATH],  # not the default, but faster on sequences this short
}
BAR = 1.0


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The one case of the suite. Raises RuntimeError if the two sides are not the same."""
    config = override(g2p_quickstart.CONFIG, {'model.vocab_size': VOCAB_SIZE})
    random = np.random.default_rng(config.train.seed)
    batches = [pair_batch(random, shape, VOCAB_SIZE) for shape in SHAPES]
    return {'quickstart': compare_steps(config, make_peer, peers, batches, real_tokens, 'tokens/s',
                                        BAR, repeats, 'quickstart')}


def make_peer(config: Config, params: dict, peer: str) -> Peer:
    """nn.Transformer with our weights and one of KERNELS."""
    model = PeerModel(config.model)
    model.copy(params)

    def loss_of(model: PeerModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with sdpa_kernel(KERNELS[peer]):
            logits_BTV = model(batch)
        return F.cross_entropy(logits_BTV.flatten(0, 1), batch['labels_BT'].flatten().long(),
                               ignore_index=PAIR_SPECIAL.pad,
                               label_smoothing=config.optim.label_smoothing)
    return Peer(config, model, loss_of)


class PeerModel(torch.nn.Module):
    """`xformer.models.seq2seq.Seq2Seq` with tied embeddings, of torch.nn.Transformer's layers."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        pre = c.norm_position == 'pre'
        layer = {'d_model': c.d_model, 'nhead': c.num_heads, 'dim_feedforward': c.d_ff,
                 'dropout': c.dropout, 'activation': c.activation,
                 'layer_norm_eps': 1e-6, 'batch_first': True, 'norm_first': pre}

        def final_norm():
            return torch.nn.LayerNorm(c.d_model, eps=1e-6) if pre else None

        self.transformer = torch.nn.Transformer(
            c.d_model, c.num_heads, batch_first=True,
            custom_encoder=torch.nn.TransformerEncoder(
                torch.nn.TransformerEncoderLayer(**layer), c.num_encoder_layers, final_norm(),
                enable_nested_tensor=False),
            custom_decoder=torch.nn.TransformerDecoder(
                torch.nn.TransformerDecoderLayer(**layer), c.num_decoder_layers, final_norm()))
        for module in self.modules():
            if isinstance(module, torch.nn.MultiheadAttention):
                module.dropout = c.attention_dropout
            elif hasattr(module, 'linear2'):  # a block, whose `dropout` is the feed-forward's
                module.dropout.p = c.activation_dropout
        self.embedding = torch.nn.Embedding(c.vocab_size, c.d_model)
        self.drop = torch.nn.Dropout(c.dropout)
        positions = sinusoidal(jnp.arange(c.max_length), c.d_model)
        self.register_buffer('positions', torch.tensor(np.asarray(positions)))

    def forward(self, batch: dict) -> torch.Tensor:
        S, T = batch['source_BS'].shape[1], batch['inputs_BT'].shape[1]
        padding_BS = torch.arange(S) >= batch['source_lengths_B'][:, None]
        y_BTD = self.transformer(
            self.embed(batch['source_BS']), self.embed(batch['inputs_BT']),
            tgt_mask=torch.nn.Transformer.generate_square_subsequent_mask(T), tgt_is_causal=True,
            src_key_padding_mask=padding_BS, memory_key_padding_mask=padding_BS)
        return F.linear(y_BTD, self.embedding.weight)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        scale = self.embedding.embedding_dim ** 0.5
        return self.drop(self.embedding(ids) * scale + self.positions[:ids.shape[1]])

    def copy(self, params: dict) -> None:
        """Take the weights of ours; every one of them must find its place."""
        state = {'embedding.weight': params['embedding'], 'positions': self.positions.numpy()}
        for side in ('encoder', 'decoder'):
            stack, into = params[side], f'transformer.{side}'
            if 'final_norm' in stack:
                state |= copied_norm(f'{into}.norm', stack['final_norm'])
            for index, block in enumerate(unstacked(stack)['layers']):
                state |= _block(f'{into}.layers.{index}', block)
        load(self, state)


def _block(into: str, block: dict) -> dict[str, np.ndarray]:
    norms = ['self_attention_norm', 'cross_attention_norm', 'feed_forward_norm']
    state = {}
    for index, name in enumerate((name for name in norms if name in block), start=1):
        state |= copied_norm(f'{into}.norm{index}', block[name])
    for name, theirs in (('self_attention', 'self_attn'), ('cross_attention', 'multihead_attn')):
        if name in block:
            state |= _attention(f'{into}.{theirs}', block[name])
    return (state | copied_linear(f'{into}.linear1', block['feed_forward']['up'])
            | copied_linear(f'{into}.linear2', block['feed_forward']['down']))


def _attention(into: str, attention: dict) -> dict[str, np.ndarray]:
    projections = [attention[name] for name in ('query', 'key', 'value')]
    return copied_linear(f'{into}.out_proj', attention['out']) | {
        f'{into}.in_proj_weight': np.concatenate([p['kernel'].T for p in projections]),
        f'{into}.in_proj_bias': np.concatenate([p['bias'] for p in projections])}
