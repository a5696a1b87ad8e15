"""Published sizes by name, as changes to a configuration."""

from xformer.config import Config, UserError, nearest, override

PRESETS = {
    # Vaswani et al. 2017, table 3
    'transformer-base': {
        'model.num_encoder_layers': 6, 'model.num_decoder_layers': 6, 'model.d_model': 512,
        'model.d_ff': 2048, 'model.num_heads': 8, 'model.dropout': 0.1},
    'transformer-big': {
        'model.num_encoder_layers': 6, 'model.num_decoder_layers': 6, 'model.d_model': 1024,
        'model.d_ff': 4096, 'model.num_heads': 16, 'model.dropout': 0.3},
}


def preset(name: str, base: Config | None = None) -> Config:
    """`base` (default: the default configuration) with the named size."""
    if name not in PRESETS:
        raise UserError(f'there is no preset {name!r}{nearest(name, PRESETS)}')
    return override(base or Config(), PRESETS[name])
