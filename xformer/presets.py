"""Published sizes by name, as changes to the `model` section of a configuration.

Vocabulary sizes are the published ones; set model.vocab_size=0 to take the tokenizer's.
"""

from xformer.config import Config, UserError, nearest, override

_TRANSFORMER = {  # Vaswani et al. 2017, table 3
    'num_encoder_layers': 6, 'num_decoder_layers': 6, 'd_model': 512, 'd_ff': 2048,
    'num_heads': 8, 'dropout': 0.1, 'vocab_size': 37_000}
_BERT = {  # Devlin et al. 2019; the small ones Turc et al. 2019
    'family': 'encoder', 'num_decoder_layers': 0, 'vocab_size': 30_522, 'num_segments': 2,
    'max_length': 512, 'activation': 'gelu', 'norm_epsilon': 1e-12, 'embedding_norm': True,
    'positions': 'learned', 'embedding_scale': 'none', 'pooler': True, 'init': 'bert',
    'attention_dropout': 0.1}
_GPT2 = {  # Radford et al. 2019
    'family': 'decoder', 'num_encoder_layers': 0, 'vocab_size': 50_257, 'max_length': 1024,
    'activation': 'gelu_tanh', 'norm_position': 'pre', 'norm_epsilon': 1e-5,
    'positions': 'learned', 'embedding_scale': 'none', 'init': 'gpt2', 'attention_dropout': 0.1}
_LLAMA = {  # Touvron et al. 2023: RMSNorm, rotary, SwiGLU, grouped queries
    'family': 'decoder', 'num_encoder_layers': 0, 'vocab_size': 32_000, 'max_length': 2048,
    'activation': 'swiglu', 'norm': 'rms', 'norm_position': 'pre', 'norm_epsilon': 1e-5,
    'positions': 'rotary', 'embedding_scale': 'none', 'tie_embeddings': 'none',
    'biases': False, 'init': 'gpt2', 'dropout': 0.0}
_T5 = {  # Raffel et al. 2020
    'vocab_size': 32_128, 'activation': 'relu', 'norm': 'rms', 'norm_position': 'pre',
    'positions': 'relative', 'embedding_scale': 'output', 'scale_scores': False,
    'biases': False, 'init': 't5', 'attention_dropout': 0.1, 'activation_dropout': 0.1}
_T5_V11 = {  # Shazeer 2020: gated, output embeddings of its own
    **_T5, 'activation': 'geglu_tanh', 'embedding_scale': 'none', 'tie_embeddings': 'inputs'}
_BART = {  # Lewis et al. 2020; its tables of positions have 1,024 + 2 rows
    'vocab_size': 50_265, 'max_length': 1026, 'activation': 'gelu', 'norm_epsilon': 1e-5,
    'embedding_norm': True, 'positions': 'learned', 'embedding_scale': 'none', 'init': 'bert'}


def _encoder(layers: int, width: int, heads: int, inner: int = 0) -> dict:
    return {'num_encoder_layers': layers, 'd_model': width, 'num_heads': heads,
            'd_ff': inner or 4 * width}


def _decoder(layers: int, width: int, heads: int) -> dict:
    return {'num_decoder_layers': layers, 'd_model': width, 'num_heads': heads,
            'd_ff': 4 * width}


def _both(layers: int, width: int, heads: int, inner: int, head_width: int = 0) -> dict:
    return {**_encoder(layers, width, heads, inner), 'num_decoder_layers': layers,
            'head_width': head_width}


PRESETS = {
    'transformer-base': _TRANSFORMER,
    'transformer-big': {**_TRANSFORMER, **_both(6, 1024, 16, 4096), 'dropout': 0.3},
    'marian': {**_TRANSFORMER, 'vocab_size': 58_101, 'activation': 'silu',
               'positions': 'sinusoidal_halves', 'norm_epsilon': 1e-5},  # OPUS-MT en-de
    'bert-tiny': {**_BERT, **_encoder(2, 128, 2)},
    'bert-mini': {**_BERT, **_encoder(4, 256, 4)},
    'bert-small': {**_BERT, **_encoder(4, 512, 8)},
    'bert-medium': {**_BERT, **_encoder(8, 512, 8)},
    'bert-base': {**_BERT, **_encoder(12, 768, 12)},
    'bert-large': {**_BERT, **_encoder(24, 1024, 16)},
    'roberta-base': {**_BERT, **_encoder(12, 768, 12), 'vocab_size': 50_265, 'num_segments': 1,
                     'max_length': 514, 'norm_epsilon': 1e-5},  # positions: 512 + 2 rows
    'distilbert': {**_BERT, **_encoder(6, 768, 12), 'num_segments': 0, 'pooler': False},
    'albert-base': {**_BERT, **_encoder(12, 768, 12), 'vocab_size': 30_000,
                    'embedding_size': 128, 'share_layers': True, 'activation': 'gelu_tanh',
                    'dropout': 0.0, 'attention_dropout': 0.0},
    'gpt2': {**_GPT2, **_decoder(12, 768, 12)},
    'gpt2-medium': {**_GPT2, **_decoder(24, 1024, 16)},
    'gpt2-large': {**_GPT2, **_decoder(36, 1280, 20)},
    'gpt2-xl': {**_GPT2, **_decoder(48, 1600, 25)},
    'llama-125m': {**_LLAMA, **_decoder(12, 768, 12), 'num_kv_heads': 4, 'd_ff': 2048},
    't5-small': {**_T5, **_both(6, 512, 8, 2048)},
    't5-base': {**_T5, **_both(12, 768, 12, 3072)},
    't5-large': {**_T5, **_both(24, 1024, 16, 4096)},
    't5-v1.1-small': {**_T5_V11, **_both(8, 512, 6, 1024, head_width=64)},
    't5-v1.1-base': {**_T5_V11, **_both(12, 768, 12, 2048)},
    't5-v1.1-large': {**_T5_V11, **_both(24, 1024, 16, 2816)},
    'bart-base': {**_BART, **_both(6, 768, 12, 3072)},
    'bart-large': {**_BART, **_both(12, 1024, 16, 4096)},
}


def preset(name: str, base: Config | None = None) -> Config:
    """`base` (default: the default configuration) with the named model."""
    if name not in PRESETS:
        raise UserError(f'there is no preset {name!r}{nearest(name, PRESETS)}')
    return override(base or Config(),
                    {f'model.{field}': value for field, value in PRESETS[name].items()})
