"""GPT-2 (Radford et al. 2019)."""

from xformer.interop.families.family import Architecture, Family
from xformer.interop.options import ACTIVATIONS, Option, Theirs, chosen, fixed
from xformer.interop.tables import conv1d, embedding, norm, within

_BLOCK = {
    **norm('self_attention_norm', 'ln_1'),
    **conv1d('self_attention/query', 'attn.c_attn', 0, 3),
    **conv1d('self_attention/key', 'attn.c_attn', 1, 3),
    **conv1d('self_attention/value', 'attn.c_attn', 2, 3),
    **conv1d('self_attention/out', 'attn.c_proj'),
    **norm('feed_forward_norm', 'ln_2'),
    **conv1d('feed_forward/up', 'mlp.c_fc'),
    **conv1d('feed_forward/down', 'mlp.c_proj')}


def _adjust(theirs: Theirs) -> Theirs:
    return theirs | {'n_inner': theirs.get('n_inner') or 4 * theirs.get('n_embd', 768)}


GPT2 = Family(
    'gpt2', [
        Option('vocab_size', 'vocab_size', 50_257),
        Option('n_positions', 'max_length', 1024),
        Option('n_embd', 'd_model', 768),
        Option('n_layer', 'num_decoder_layers', 12),
        Option('n_head', 'num_heads', 12),
        Option('n_inner', 'd_ff'),
        chosen('activation_function', 'activation', 'gelu_new', ACTIVATIONS),
        Option('embd_pdrop', 'dropout', 0.1),
        Option('resid_pdrop', 'dropout', 0.1),
        Option('attn_pdrop', 'attention_dropout', 0.1),
        Option('layer_norm_epsilon', 'norm_epsilon', 1e-5),
        Option('bos_token_id', 'bos_id', 50_256),
        Option('eos_token_id', 'eos_id', 50_256),
        *fixed(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False,
               reorder_and_upcast_attn=False, add_cross_attention=False,
               tie_word_embeddings=True)],
    {'family': 'decoder', 'num_encoder_layers': 0, 'norm_position': 'pre', 'positions': 'learned',
     'embedding_scale': 'none', 'init': 'gpt2'},
    lambda model: {
        **within('decoder/layers', 'transformer.h.*', _BLOCK),
        **embedding('embedding', 'transformer.wte'),
        **embedding('input_embedding/position_embedding', 'transformer.wpe'),
        **norm('decoder/final_norm', 'transformer.ln_f')},
    dict.fromkeys(['GPT2LMHeadModel', 'GPT2Model'], Architecture('lm')),
    prefix='transformer', tokenizer='byte_bpe', tied=['lm_head.weight'],
    ignored=['*h.*.attn.bias', '*h.*.attn.masked_bias'], adjust=_adjust)
