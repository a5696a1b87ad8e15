"""Suite train-seq2seq: the quickstart's training step against PyTorch's nn.Transformer, eager.

The peer has the same weights, positions, dropout rates in the same places, loss, clipping,
AdamW and batches. Before anything is timed, losses and gradient norms are held equal.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.timing import alternate, cpus, machine, spread
from experiments.configs import g2p_quickstart
from xformer.compiled import Compilations
from xformer.config import Config, ModelConfig, override, to_flat
from xformer.data.plan import Shape
from xformer.models import build
from xformer.nn.positions import sinusoidal
from xformer.train.optimizer import make_schedule
from xformer.train.parallel import Parallel
from xformer.train.step import make_steps

VOCAB_SIZE = 102  # of CMUdict: letters, phones and special tokens
PAD, BOS, EOS, NUM_SPECIAL = 0, 1, 2, 4
SHAPES = [(312, 7, 6), (240, 9, 8), (192, 11, 10), (136, 15, 14)]  # 97 % of the run's batches
PEERS = {  # what may compute the attention
    'eager': [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],  # auto
    'eager-math': [SDPBackend.MATH],  # not the default, but faster on sequences this short
}
TOLERANCE = {'loss': 1e-5, 'gradient_norm': 1e-4}  # relative


def measure(pairs: int, peer: str = 'eager') -> dict:
    """The suite's result against one of PEERS, ready for JSON.

    Raises RuntimeError if the two are not the same.
    """
    torch.set_num_threads(cpus())
    config = override(g2p_quickstart.CONFIG, {'model.vocab_size': VOCAB_SIZE})
    random = np.random.default_rng(config.train.seed)
    batches = [random_batch(random, shape, VOCAB_SIZE) for shape in SHAPES]
    result = {'suite': 'train-seq2seq', 'ours': 'xformer', 'peer': f'nn.Transformer, {peer}',
              'machine': machine(), 'config': to_flat(config), 'shapes': SHAPES,
              'parity': parity(*both(without_dropout(config)), batches[:1] * 2)}

    def work(side):
        def steps():
            for loss in [side.step(batch)[0] for batch in batches]:
                float(loss)  # waits for it
        return steps

    rows = alternate(*map(work, both(config, peer)), pairs)
    tokens = sum(int(batch['source_lengths_B'].sum() + batch['target_lengths_B'].sum())
                 for batch in batches)
    slots = sum(rows * (S + T) for rows, S, T in SHAPES)
    return result | {
        'tokens_per_pair': tokens, 'fill': round(tokens / slots, 3),
        'tokens_per_second': {side: spread((tokens / row[f'{side}_seconds'] for row in rows), 0)
                              for side in ('ours', 'peer')},
        'ratio': spread((row['peer_seconds'] / row['ours_seconds'] for row in rows), 3),
        'pairs': rows}


def both(config: Config, peer: str = 'eager') -> tuple['Ours', 'Peer']:
    """The two sides, with the same weights and no update made."""
    ours = Ours(config)
    return ours, Peer(config, jax.device_get(ours.state.params), peer)


def random_batch(random: np.random.Generator, shape: Shape, vocab_size: int) -> dict:
    """Random ids as `xformer.data.objectives.pairs.Pairs` lays them out.

    Lengths are 70 to 100 % of the slots, which makes 87 % of them real, as in CMUdict.
    """
    rows, S, T = shape

    def side(slots):
        lengths_B = random.integers(math.ceil(0.7 * slots), slots, rows, np.int32, endpoint=True)
        ids = random.integers(NUM_SPECIAL, vocab_size, (rows, slots), np.int32)
        return np.where(np.arange(slots) < lengths_B[:, None], ids, np.int32(PAD)), lengths_B

    (source_BS, source_lengths_B), (labels_BT, target_lengths_B) = side(S), side(T)
    inputs_BT = np.where(labels_BT == PAD, labels_BT, np.roll(labels_BT, 1, axis=1))
    inputs_BT[:, 0] = BOS
    return {'source_BS': source_BS, 'source_lengths_B': source_lengths_B, 'inputs_BT': inputs_BT,
            'labels_BT': labels_BT, 'target_lengths_B': target_lengths_B}


def without_dropout(config: Config) -> Config:
    return override(config, dict.fromkeys(
        ('model.dropout', 'model.attention_dropout', 'model.activation_dropout'), 0.0))


def parity(ours: 'Ours', peer: 'Peer', batches: list[dict]) -> dict[str, float]:
    """Largest relative difference of 'loss' and 'gradient_norm' over successive updates.

    The second update and later ones see the weights that the optimizers made. Raises
    RuntimeError beyond TOLERANCE, or where the numbers of parameters differ.
    """
    if ours.num_parameters != peer.num_parameters:
        raise RuntimeError(f'ours has {ours.num_parameters} parameters, '
                           f'the peer {peer.num_parameters}')
    worst = dict.fromkeys(TOLERANCE, 0.0)
    for batch in batches:
        for name, a, b in zip(worst, ours.step(batch), peer.step(batch)):
            worst[name] = max(worst[name], abs(float(a) - float(b)) / abs(float(b)))
    for name, limit in TOLERANCE.items():
        if not worst[name] <= limit:
            raise RuntimeError(f'{name} differs by {worst[name]:.1e}, more than {limit:.0e}')
    return worst


class Ours:
    """The training step as `xformer.train.loop` runs it."""

    def __init__(self, config: Config):
        parallel = Parallel(config)
        parallel.check_rows(SHAPES)
        init, train, _ = parallel.compile(make_steps(config, build(config)))
        self.place, self.train = parallel.place, Compilations().wrap('train_step', train)
        self.state = init()
        self.num_parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        self.index = 0

    def step(self, batch: dict):
        """(loss, gradient norm) of one more update."""
        self.state, metrics = self.train(self.state, self.place(batch), np.int32(self.index))
        self.index += 1
        return metrics['loss'], metrics['grad_norm']


class Peer:
    """The same training step as one writes it in PyTorch."""

    def __init__(self, config: Config, params: dict, peer: str = 'eager'):
        self.attention = PEERS[peer]
        torch.manual_seed(config.train.seed)
        self.optim = optim = config.optim
        self.model = PeerModel(config.model)
        self.model.copy(params)
        self.num_parameters = sum(p.numel() for p in self.model.parameters())
        self.rates = np.asarray(make_schedule(config)(jnp.arange(config.train.steps))).tolist()
        matrices, vectors = ([p for p in self.model.parameters() if (p.ndim > 1) == matrix]
                             for matrix in (True, False))
        self.optimizer = torch.optim.AdamW(
            [{'params': matrices, 'weight_decay': optim.weight_decay},
             {'params': vectors, 'weight_decay': 0.0}],
            betas=(optim.beta1, optim.beta2), eps=optim.epsilon, fused=True)
        self.index = 0

    def step(self, batch: dict):
        """(loss, gradient norm) of one more update."""
        batch = {name: torch.from_numpy(values) for name, values in batch.items()}
        with sdpa_kernel(self.attention):
            logits_BTV = self.model(batch)
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), batch['labels_BT'].flatten().long(),
                               ignore_index=PAD, label_smoothing=self.optim.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(),
                                              self.optim.clip_norm or math.inf)
        for group in self.optimizer.param_groups:
            group['lr'] = self.rates[min(self.index, len(self.rates) - 1)]
        self.optimizer.step()
        self.index += 1
        return loss.detach(), norm


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
                state |= _norm(f'{into}.norm', stack['final_norm'])
            for index in range(len(getattr(self.transformer, side).layers)):
                block = jax.tree.map(lambda leaf, i=index: leaf[i], stack['layers'])
                state |= _block(f'{into}.layers.{index}', block)
        self.load_state_dict({name: torch.tensor(value) for name, value in state.items()})


def _block(into: str, block: dict) -> dict[str, np.ndarray]:
    norms = ['self_attention_norm', 'cross_attention_norm', 'feed_forward_norm']
    state = {}
    for index, name in enumerate((name for name in norms if name in block), start=1):
        state |= _norm(f'{into}.norm{index}', block[name])
    for name, theirs in (('self_attention', 'self_attn'), ('cross_attention', 'multihead_attn')):
        if name in block:
            state |= _attention(f'{into}.{theirs}', block[name])
    return (state | _linear(f'{into}.linear1', block['feed_forward']['up'])
            | _linear(f'{into}.linear2', block['feed_forward']['down']))


def _attention(into: str, attention: dict) -> dict[str, np.ndarray]:
    projections = [attention[name] for name in ('query', 'key', 'value')]
    return _linear(f'{into}.out_proj', attention['out']) | {
        f'{into}.in_proj_weight': np.concatenate([p['kernel'].T for p in projections]),
        f'{into}.in_proj_bias': np.concatenate([p['bias'] for p in projections])}


def _linear(into: str, linear: dict) -> dict[str, np.ndarray]:
    return {f'{into}.weight': linear['kernel'].T, f'{into}.bias': linear['bias']}


def _norm(into: str, norm: dict) -> dict[str, np.ndarray]:
    return {f'{into}.weight': norm['scale'], f'{into}.bias': norm['bias']}
