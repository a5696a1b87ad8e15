"""T5 (Raffel et al. 2020), T5 v1.1 and Flan-T5 (Shazeer 2020: gated), mT5 (Xue et al. 2021)."""

from dataclasses import replace

from xformer.config import ModelConfig
from xformer.interop.families.family import Architecture, Family
from xformer.interop.options import Option, Theirs, chosen, fixed
from xformer.interop.tables import Place, Table, embedding, linear, norm, within

_GATED = {'gated-gelu': 'geglu_tanh', 'gated-silu': 'swiglu'}


def _attention(ours: str, theirs: str) -> Table:
    return {path: place for our, their in (('query', 'q'), ('key', 'k'), ('value', 'v'),
                                           ('out', 'o'))
            for path, place in linear(f'{ours}/{our}', f'{theirs}.{their}').items()}


def _feed_forward(layer: str, gated: bool) -> Table:
    maps = ({'gate': 'wi_0', 'up': 'wi_1'} if gated else {'up': 'wi'}) | {'down': 'wo'}
    return {path: place for our, their in maps.items() for path, place in linear(
        f'feed_forward/{our}', f'{layer}.DenseReluDense.{their}').items()
    } | norm('feed_forward_norm', f'{layer}.layer_norm')


def _stack(side: str, block: Table) -> Table:
    first = f'{side}.block.0.layer.0.SelfAttention.relative_attention_bias'
    return {**within(f'{side}/layers', f'{side}.block.*', block),
            **embedding(f'{side}/relative_bias', first),  # of all layers
            **norm(f'{side}/final_norm', f'{side}.final_layer_norm')}


def _table(model: ModelConfig) -> Table:
    gated = model.activation in _GATED.values()
    own = {**_attention('self_attention', 'layer.0.SelfAttention'),
           **norm('self_attention_norm', 'layer.0.layer_norm')}
    cross = {**_attention('cross_attention', 'layer.1.EncDecAttention'),
             **norm('cross_attention_norm', 'layer.1.layer_norm')}
    return {**embedding('embedding', 'shared'),
            **_stack('encoder', {**own, **_feed_forward('layer.1', gated)}),
            **_stack('decoder', {**own, **cross, **_feed_forward('layer.2', gated)}),
            'output/kernel': Place('lm_head.weight', turned=True)}


LONGEST = 4096  # tokens that are read and written
_OPTIONS = [
    Option('vocab_size', 'vocab_size', 32_128),
    Option('d_model', 'd_model', 512),
    Option('d_kv', 'head_width', 64),
    Option('d_ff', 'd_ff', 2048),
    Option('num_layers', 'num_encoder_layers', 6),
    Option('num_decoder_layers', 'num_decoder_layers'),
    Option('num_heads', 'num_heads', 8),
    Option('n_positions', 'max_length', 512),
    Option('relative_attention_num_buckets', 'relative_buckets', 32),
    Option('relative_attention_max_distance', 'relative_distance', 128),
    Option('dropout_rate', 'dropout', 0.1),
    Option('dropout_rate', 'attention_dropout', 0.1),
    Option('dropout_rate', 'activation_dropout', 0.1),
    Option('layer_norm_epsilon', 'norm_epsilon', 1e-6),
    chosen('feed_forward_proj', 'activation', 'relu', {'relu': 'relu', **_GATED}),
    chosen('scale_decoder_outputs', 'embedding_scale', True, {True: 'output', False: 'none'}),
    Option('pad_token_id', 'pad_id', 0),
    Option('decoder_start_token_id', 'bos_id', 0),
    Option('eos_token_id', 'eos_id', 1),
    *fixed(is_decoder=False, is_encoder_decoder=True)]


def _adjust(theirs: Theirs) -> Theirs:
    """Older files say tie_word_embeddings, and mean by it whether logits are scaled. Whether the
    output is tied, the tensors tell. Relative positions have no last one: n_positions is how many
    there were in training, and later files leave it out. What is null is as good as left out."""
    theirs = {name: value for name, value in theirs.items() if value is not None}
    return {'num_decoder_layers': theirs.get('num_layers', 6),
            'scale_decoder_outputs': theirs.get('tie_word_embeddings', True) is not False,
            'decoder_start_token_id': theirs.get('pad_token_id', 0), **theirs,
            'n_positions': max(theirs.get('n_positions', 0), LONGEST)}


def _unscaled(theirs: Theirs) -> Theirs:
    return _adjust(theirs) | {'scale_decoder_outputs': False}


T5 = Family(
    't5', _OPTIONS,
    {'norm': 'rms', 'norm_position': 'pre', 'positions': 'relative', 'scale_scores': False,
     'biases': False, 'init': 't5'},
    _table, dict.fromkeys(['T5ForConditionalGeneration', 'T5Model'], Architecture('pairs')),
    tokenizer='unigram',
    tied=['encoder.embed_tokens.weight', 'decoder.embed_tokens.weight', 'lm_head.weight'],
    ignored=['decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'],
    adjust=_adjust, complete=lambda theirs: theirs | {
        'tie_word_embeddings': theirs['scale_decoder_outputs']})
MT5 = replace(T5, model_type='mt5', adjust=_unscaled, architectures=dict.fromkeys(
    ['MT5ForConditionalGeneration', 'MT5Model'], Architecture('pairs')))
