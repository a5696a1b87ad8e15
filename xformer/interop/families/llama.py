"""Llama-style decoders (Touvron et al. 2023)."""

from xformer.config import UserError
from xformer.interop.families.family import Architecture, Family
from xformer.interop.options import Option, Theirs, chosen
from xformer.interop.tables import Place, embedding, linear, norm, within

_BLOCK = {
    **norm('self_attention_norm', 'input_layernorm'),
    **linear('self_attention/query', 'self_attn.q_proj'),
    **linear('self_attention/key', 'self_attn.k_proj'),
    **linear('self_attention/value', 'self_attn.v_proj'),
    **linear('self_attention/out', 'self_attn.o_proj'),
    **norm('feed_forward_norm', 'post_attention_layernorm'),
    **linear('feed_forward/gate', 'mlp.gate_proj'),
    **linear('feed_forward/up', 'mlp.up_proj'),
    **linear('feed_forward/down', 'mlp.down_proj')}


def _adjust(theirs: Theirs) -> Theirs:
    """Newer files keep what belongs to rotary positions together."""
    new, old = (theirs.get(name) or {} for name in ('rope_parameters', 'rope_scaling'))
    for scaling in (new, old):
        if scaling.get('rope_type', scaling.get('type', 'default')) != 'default':
            raise UserError(f'scaled rotary positions ({scaling}) are not supported')
    rope = new | old
    heads, width = theirs.get('num_attention_heads', 32), theirs.get('hidden_size', 4096)
    return theirs | {
        'rope_theta': float(rope.get('rope_theta', theirs.get('rope_theta', 10_000.0))),
        'num_key_value_heads': theirs.get('num_key_value_heads') or heads,
        'head_dim': theirs.get('head_dim') or width // heads}


def _first(ends: int | list[int]) -> int:
    """Of several; `generation` tells of the others."""
    return ends[0] if isinstance(ends, list) else ends


LLAMA = Family(
    'llama', [
        Option('vocab_size', 'vocab_size', 32_000),
        Option('hidden_size', 'd_model', 4096),
        Option('num_hidden_layers', 'num_decoder_layers', 32),
        Option('num_attention_heads', 'num_heads', 32),
        Option('num_key_value_heads', 'num_kv_heads'),
        Option('head_dim', 'head_width'),
        Option('intermediate_size', 'd_ff', 11_008),
        chosen('hidden_act', 'activation', 'silu', {'silu': 'swiglu', 'swish': 'swiglu',
                                                    'gelu': 'geglu',
                                                    'gelu_pytorch_tanh': 'geglu_tanh',
                                                    'gelu_new': 'geglu_tanh'}),
        Option('max_position_embeddings', 'max_length', 2048),
        Option('rms_norm_eps', 'norm_epsilon', 1e-6),
        Option('rope_theta', 'rotary_base', 10_000.0),
        Option('attention_dropout', 'attention_dropout', 0.0),
        Option('attention_bias', 'biases', False),
        Option('mlp_bias', 'biases', False),
        Option('bos_token_id', 'bos_id', 1),
        Option('eos_token_id', 'eos_id', 2, read=_first),
        chosen('tie_word_embeddings', 'tie_embeddings', False, {False: 'none', True: 'all'})],
    {'family': 'decoder', 'num_encoder_layers': 0, 'norm': 'rms', 'norm_position': 'pre',
     'positions': 'rotary', 'embedding_scale': 'none', 'init': 'gpt2', 'dropout': 0.0},
    lambda model: {
     **within('decoder/layers', 'model.layers.*', _BLOCK),
     **embedding('embedding', 'model.embed_tokens'),
     **norm('decoder/final_norm', 'model.norm'),
     'output/kernel': Place('lm_head.weight', turned=True)},
    {'LlamaForCausalLM': Architecture('lm')},
    tokenizer='bpe', tied=['lm_head.weight'],
    ignored=['model.layers.*.self_attn.rotary_emb.inv_freq'],
    adjust=_adjust, complete=lambda theirs: theirs | {
        'rope_parameters': {'rope_type': 'default', 'rope_theta': theirs['rope_theta']}})
