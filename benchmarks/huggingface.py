"""Models of Hugging Face transformers that hold our weights.

Attention is PyTorch's scaled_dot_product_attention, dropout is in the same places as ours.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    MarianConfig,
    MarianMTModel,
)

from benchmarks.weights import State, copied_linear, copied_norm, load
from xformer.config import ModelConfig
from xformer.nn.positions import sinusoidal
from xformer.nn.stack import unstacked

Rename = Callable[[str, dict], State]  # (name of a block, its parameters) -> theirs

ACTIVATIONS = {'gelu_tanh': 'gelu_pytorch_tanh'}  # theirs where the names differ


def gpt2(c: ModelConfig, params: dict) -> GPT2LMHeadModel:
    """The decoder of a pre-norm configuration with learned positions and biases."""
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.max_length, n_embd=c.d_model, n_inner=c.d_ff,
        n_layer=c.num_decoder_layers, n_head=c.num_heads, layer_norm_epsilon=c.norm_epsilon,
        activation_function=ACTIVATIONS.get(c.activation, c.activation), embd_pdrop=c.dropout,
        resid_pdrop=c.dropout, attn_pdrop=c.attention_dropout, attn_implementation='sdpa',
        bos_token_id=c.bos_id, eos_token_id=None, pad_token_id=c.pad_id))
    return load(model, {
        'transformer.wte.weight': params['embedding'], 'lm_head.weight': params['embedding'],
        'transformer.wpe.weight': params['input_embedding']['position_embedding'],
        **copied_norm('transformer.ln_f', params['decoder']['final_norm']),
        **_layers('transformer.h', params['decoder'], _gpt2_block)})


def _gpt2_block(into: str, block: dict) -> State:
    """Their linear maps are [in, out] as ours; queries, keys and values are one."""
    attention, feed_forward = block['self_attention'], block['feed_forward']
    joined = {part: np.concatenate([attention[name][part] for name in ('query', 'key', 'value')],
                                   axis=-1) for part in ('kernel', 'bias')}
    maps = {'attn.c_attn': joined, 'attn.c_proj': attention['out'],
            'mlp.c_fc': feed_forward['up'], 'mlp.c_proj': feed_forward['down']}
    return {f'{into}.{name}.{theirs}': linear[ours] for name, linear in maps.items()
            for theirs, ours in (('weight', 'kernel'), ('bias', 'bias'))
            } | copied_norm(f'{into}.ln_1', block['self_attention_norm']
                      ) | copied_norm(f'{into}.ln_2', block['feed_forward_norm'])


def bert(c: ModelConfig, params: dict) -> BertModel:
    """The encoder with segments and pooler; `params` are those of `xformer.models.Encoder`."""
    return load(BertModel(_bert_config(c)), _bert_encoder('', params))


def bert_for_pretraining(c: ModelConfig, params: dict) -> BertForPreTraining:
    """The encoder with both heads. It computes the logits of all tokens, masked or not."""
    table, bias = params['encoder']['embedding'], params['output_bias']
    return load(BertForPreTraining(_bert_config(c)), {
        **_bert_encoder('bert.', params['encoder']),
        **copied_linear('cls.predictions.transform.dense', params['transform']),
        **copied_norm('cls.predictions.transform.LayerNorm', params['transform_norm']),
        'cls.predictions.decoder.weight': table, 'cls.predictions.decoder.bias': bias,
        'cls.predictions.bias': bias,
        **copied_linear('cls.seq_relationship', params['next_sentence_head'])})


def _bert_config(c: ModelConfig) -> BertConfig:
    return BertConfig(
        vocab_size=c.vocab_size, hidden_size=c.d_model, num_hidden_layers=c.num_encoder_layers,
        num_attention_heads=c.num_heads, intermediate_size=c.d_ff, hidden_act=c.activation,
        hidden_dropout_prob=c.dropout, attention_probs_dropout_prob=c.attention_dropout,
        max_position_embeddings=c.max_length, type_vocab_size=c.num_segments,
        layer_norm_eps=c.norm_epsilon, pad_token_id=c.pad_id, attn_implementation='sdpa')


def _bert_encoder(into: str, params: dict) -> State:
    embedding = params['input_embedding']
    return {f'{into}embeddings.word_embeddings.weight': params['embedding'],
            f'{into}embeddings.position_embeddings.weight': embedding['position_embedding'],
            f'{into}embeddings.token_type_embeddings.weight': embedding['segment_embedding'],
            **copied_norm(f'{into}embeddings.LayerNorm', embedding['norm']),
            **_layers(f'{into}encoder.layer', params['encoder'], _bert_block),
            **copied_linear(f'{into}pooler.dense', params['pooler'])}


def _bert_block(into: str, block: dict) -> State:
    attention, feed_forward = block['self_attention'], block['feed_forward']
    return {**copied_linear(f'{into}.attention.self.query', attention['query']),
            **copied_linear(f'{into}.attention.self.key', attention['key']),
            **copied_linear(f'{into}.attention.self.value', attention['value']),
            **copied_linear(f'{into}.attention.output.dense', attention['out']),
            **copied_norm(f'{into}.attention.output.LayerNorm', block['self_attention_norm']),
            **copied_linear(f'{into}.intermediate.dense', feed_forward['up']),
            **copied_linear(f'{into}.output.dense', feed_forward['down']),
            **copied_norm(f'{into}.output.LayerNorm', block['feed_forward_norm'])}


def marian(c: ModelConfig, params: dict) -> MarianMTModel:
    """The original Transformer: post-norm, sinusoidal positions, all embeddings shared."""
    model = MarianMTModel(MarianConfig(
        vocab_size=c.vocab_size, d_model=c.d_model, max_position_embeddings=c.max_length,
        encoder_layers=c.num_encoder_layers, decoder_layers=c.num_decoder_layers,
        encoder_attention_heads=c.num_heads, decoder_attention_heads=c.num_heads,
        encoder_ffn_dim=c.d_ff, decoder_ffn_dim=c.d_ff, dropout=c.dropout,
        activation_function=ACTIVATIONS.get(c.activation, c.activation),
        attention_dropout=c.attention_dropout, activation_dropout=c.activation_dropout,
        scale_embedding=True, static_position_embeddings=True, attn_implementation='sdpa',
        pad_token_id=c.pad_id, bos_token_id=c.bos_id, decoder_start_token_id=c.bos_id,
        eos_token_id=None, forced_eos_token_id=None))
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = c.norm_epsilon
    table = params['embedding']
    positions = np.asarray(sinusoidal(jnp.arange(c.max_length), c.d_model))
    return load(model, {
        'model.shared.weight': table, 'lm_head.weight': table,
        'final_logits_bias': np.zeros((1, c.vocab_size), np.float32),
        **{f'model.{side}.{name}.weight': value for side in ('encoder', 'decoder')
           for name, value in (('embed_tokens', table), ('embed_positions', positions))},
        **_layers('model.encoder.layers', params['encoder'], _marian_block),
        **_layers('model.decoder.layers', params['decoder'], _marian_block)})


def _marian_block(into: str, block: dict) -> State:
    theirs = {'self_attention': 'self_attn', 'cross_attention': 'encoder_attn'}
    state = {**copied_linear(f'{into}.fc1', block['feed_forward']['up']),
             **copied_linear(f'{into}.fc2', block['feed_forward']['down']),
             **copied_norm(f'{into}.final_layer_norm', block['feed_forward_norm'])}
    for name in theirs.keys() & block.keys():
        state |= copied_norm(f'{into}.{theirs[name]}_layer_norm', block[f'{name}_norm'])
        for ours, projection in (('query', 'q_proj'), ('key', 'k_proj'), ('value', 'v_proj'),
                                 ('out', 'out_proj')):
            state |= copied_linear(f'{into}.{theirs[name]}.{projection}', block[name][ours])
    return state


def _layers(into: str, stack: dict, rename: Rename) -> State:
    state = {}
    for index, block in enumerate(unstacked(stack)['layers']):
        state |= rename(f'{into}.{index}', block)
    return state
