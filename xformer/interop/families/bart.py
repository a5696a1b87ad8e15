"""BART (Lewis et al. 2020) and Marian (Junczys-Dowmunt et al. 2018)."""

from xformer.interop.families.family import Architecture, Family
from xformer.interop.options import ACTIVATIONS, Option, chosen, fixed
from xformer.interop.tables import Place, Table, embedding, linear, norm, within


def _attention(ours: str, theirs: str) -> Table:
    return {**linear(f'{ours}/query', f'{theirs}.q_proj'),
            **linear(f'{ours}/key', f'{theirs}.k_proj'),
            **linear(f'{ours}/value', f'{theirs}.v_proj'),
            **linear(f'{ours}/out', f'{theirs}.out_proj'),
            **norm(f'{ours}_norm', f'{theirs}_layer_norm')}


_BLOCK = {**_attention('self_attention', 'self_attn'),
          **linear('feed_forward/up', 'fc1'), **linear('feed_forward/down', 'fc2'),
          **norm('feed_forward_norm', 'final_layer_norm')}
_STACKS = {
    **embedding('embedding', 'model.shared'),
    **within('encoder/layers', 'model.encoder.layers.*', _BLOCK),
    **within('decoder/layers', 'model.decoder.layers.*',
             {**_BLOCK, **_attention('cross_attention', 'encoder_attn')})}
_TIED = ['model.encoder.embed_tokens.weight', 'model.decoder.embed_tokens.weight', 'lm_head.weight']
_OFFSET = 2  # of BART's positions


def _architectures(model: str, generator: str) -> dict[str, Architecture]:
    """With a bias of the logits, and without."""
    return {generator: Architecture('pairs', {'output_bias': Place('final_logits_bias', row=True)},
                                    {'output_bias': True}),
            model: Architecture('pairs', bare=True)}


def _embedded(side: str) -> Table:
    """What BART adds to Marian on each side."""
    return {**embedding(f'{side}_embedding/position_embedding', f'model.{side}.embed_positions',
                        _OFFSET),
            **norm(f'{side}_embedding/norm', f'model.{side}.layernorm_embedding')}


_OPTIONS = [
    Option('d_model', 'd_model', 1024),
    Option('encoder_layers', 'num_encoder_layers', 12),
    Option('decoder_layers', 'num_decoder_layers', 12),
    Option('encoder_attention_heads', 'num_heads', 16),
    Option('decoder_attention_heads', 'num_heads', 16),
    Option('encoder_ffn_dim', 'd_ff', 4096),
    Option('decoder_ffn_dim', 'd_ff', 4096),
    Option('max_position_embeddings', 'max_length', 1024),
    chosen('activation_function', 'activation', 'gelu', ACTIVATIONS),
    Option('dropout', 'dropout', 0.1),
    Option('attention_dropout', 'attention_dropout', 0.0),
    Option('activation_dropout', 'activation_dropout', 0.0),
    chosen('scale_embedding', 'embedding_scale', False, {True: 'input', False: 'none'}),
    *fixed(is_decoder=False, is_encoder_decoder=True, tie_word_embeddings=True,
           encoder_layerdrop=0.0, decoder_layerdrop=0.0, normalize_before=False)]
_MODEL = {'norm_epsilon': 1e-5, 'init': 'bert'}

BART = Family(
    'bart', [
        Option('vocab_size', 'vocab_size', 50_265), *_OPTIONS,
        Option('pad_token_id', 'pad_id', 1), Option('decoder_start_token_id', 'bos_id', 2),
        Option('eos_token_id', 'eos_id', 2),
        *fixed(normalize_embedding=True, add_final_layer_norm=False)],
    {**_MODEL, 'embedding_norm': True, 'positions': 'learned'},
    lambda model: {**_STACKS, **_embedded('encoder'), **_embedded('decoder')},
    _architectures('BartModel', 'BartForConditionalGeneration'), prefix='model', tied=_TIED,
    tokenizer='byte_bpe', generation={'forced_eos_token_id': 2})

MARIAN = Family(
    'marian', [
        Option('vocab_size', 'vocab_size', 58_101), *_OPTIONS,
        Option('pad_token_id', 'pad_id', 58_100),
        Option('decoder_start_token_id', 'bos_id', 58_100), Option('eos_token_id', 'eos_id', 0),
        *fixed(static_position_embeddings=True, share_encoder_decoder_embeddings=True,
               normalize_embedding=False, add_final_layer_norm=False)],
    {**_MODEL, 'positions': 'sinusoidal_halves'}, lambda model: _STACKS,
    _architectures('MarianModel', 'MarianMTModel'), prefix='model', tied=_TIED,
    tokenizer='unigram', generation={'forced_eos_token_id': 0},
    ignored=['model.*.embed_positions.weight'])
