"""A decoder that others trained and wrote in NumPy: as a Llama folder it gives the same logits."""

from pathlib import Path

import numpy as np
import pytest
from golden_checkpoints import make_folder
from parity import opened

from xformer.models import build

NAMES = {'norm1.gamma': 'input_layernorm', 'norm2.gamma': 'post_attention_layernorm',
         'attn.W_Q': 'self_attn.q_proj', 'attn.W_K': 'self_attn.k_proj',
         'attn.W_V': 'self_attn.v_proj', 'attn.W_O': 'self_attn.o_proj',
         'ffn.W1': 'mlp.gate_proj', 'ffn.W3': 'mlp.up_proj', 'ffn.W2': 'mlp.down_proj'}


def in_halves(array, head_dim):
    """It turns adjacent pairs by their positions, Llama the pairs (i, i + H/2)."""
    heads = array.reshape(len(array), -1, head_dim // 2, 2)
    return heads.swapaxes(-1, -2).reshape(array.shape)


def llama(model, folder):
    """Its parameters as a Hugging Face folder."""
    c, head_dim = model.cfg, model.cfg.d_model // model.cfg.n_heads
    tensors = {}
    for name, parameter in model.named_parameters().items():
        array = parameter.data
        if name in ('E', 'norm_f.gamma'):
            tensors[{'E': 'model.embed_tokens.weight'}.get(name, 'model.norm.weight')] = array
            continue
        _, layer, part = name.split('.', 2)
        array = in_halves(array, head_dim) if part in ('attn.W_Q', 'attn.W_K') else array
        tensors[f'model.layers.{layer}.{NAMES[part]}.weight'] = array.T
    config = {'model_type': 'llama', 'architectures': ['LlamaForCausalLM'],
              'vocab_size': c.vocab_size, 'hidden_size': c.d_model, 'num_hidden_layers': c.n_layers,
              'num_attention_heads': c.n_heads, 'num_key_value_heads': c.n_kv_heads,
              'intermediate_size': model.blocks[0].ffn.W1.data.shape[1], 'rms_norm_eps': c.eps,
              'max_position_embeddings': c.max_len, 'rope_theta': c.rope_base,
              'tie_word_embeddings': True}
    return make_folder(folder, config, {name: np.ascontiguousarray(array)
                                        for name, array in tensors.items()})


def test_the_same_logits(tmp_path):
    glassllm = pytest.importorskip('glassllm')
    model = pytest.importorskip('glassllm.model').GlassLM.load(
        Path(glassllm.__file__).parent / 'weights' / 'en.npz')
    found, params = opened(llama(model, tmp_path))
    ids = np.random.default_rng(0).integers(model.cfg.vocab_size, size=(3, model.cfg.max_len))
    ours = np.asarray(build(found.config).apply({'params': params}, ids.astype(np.int32)))
    theirs = model.forward(ids).data
    assert found.config.model.num_kv_heads == model.cfg.n_kv_heads
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
