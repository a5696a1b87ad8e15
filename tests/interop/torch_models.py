"""Small random models of PyTorch's transformers, one of every kind that is read, and what they
compute: logits, hidden states, attention maps, loss and gradients."""

import numpy as np
import torch
import transformers

LENGTH = 11  # tokens of the longest row, as many as there are positions
VOCABULARY = 53

_BERT = {'vocab_size': VOCABULARY, 'hidden_size': 15, 'num_hidden_layers': 3,
         'num_attention_heads': 3, 'intermediate_size': 21, 'max_position_embeddings': LENGTH}
_ROBERTA = _BERT | {'max_position_embeddings': LENGTH + 2, 'type_vocab_size': 1,
                    'layer_norm_eps': 1e-5}
_DISTILBERT = {'vocab_size': VOCABULARY, 'dim': 15, 'n_layers': 2, 'n_heads': 5, 'hidden_dim': 22,
               'max_position_embeddings': LENGTH, 'activation': 'relu'}
_ALBERT = _BERT | {'embedding_size': 7}
_ELECTRA = _BERT | {'embedding_size': 6}
_GPT2 = {'vocab_size': VOCABULARY, 'n_embd': 15, 'n_layer': 3, 'n_head': 3, 'n_positions': LENGTH,
         'bos_token_id': 0, 'eos_token_id': 0}
_LLAMA = {'vocab_size': VOCABULARY, 'hidden_size': 24, 'num_hidden_layers': 3,
          'num_attention_heads': 4, 'intermediate_size': 21, 'max_position_embeddings': LENGTH}
_T5 = {'vocab_size': VOCABULARY, 'd_model': 13, 'd_kv': 5, 'd_ff': 17, 'num_layers': 2,
       'num_decoder_layers': 3, 'num_heads': 3, 'decoder_start_token_id': 0}
_GATED = _T5 | {'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False}
_BART = {'vocab_size': VOCABULARY, 'd_model': 14, 'encoder_layers': 2, 'decoder_layers': 3,
         'encoder_attention_heads': 2, 'decoder_attention_heads': 2, 'encoder_ffn_dim': 19,
         'decoder_ffn_dim': 19, 'max_position_embeddings': LENGTH}
_MARIAN = _BART | {'pad_token_id': VOCABULARY - 1, 'decoder_start_token_id': VOCABULARY - 1,
                   'eos_token_id': 0, 'forced_eos_token_id': 0, 'scale_embedding': True,
                   'activation_function': 'swish'}


def _heads(name: str, options: dict, *others: str) -> dict:
    """The architectures that all encoders have, and others."""
    return {f'{name}{head}': (f'{name}{head.split()[0]}', options | more) for head, more in (
        ('Model', {}), ('ForQuestionAnswering', {}),
        ('ForSequenceClassification', {'num_labels': 3}),
        ('ForSequenceClassification of numbers', {'num_labels': 1}),
        ('ForTokenClassification', {'num_labels': 5}), *((other, {}) for other in others))}


KINDS = {  # name: (class, options of its configuration)
    **_heads('Bert', _BERT, 'ForMaskedLM', 'ForPreTraining'),
    **_heads('Roberta', _ROBERTA, 'ForMaskedLM'),
    **_heads('DistilBert', _DISTILBERT, 'ForMaskedLM'),
    **_heads('Albert', _ALBERT, 'ForMaskedLM'), **_heads('Electra', _ELECTRA, 'ForPreTraining'),
    'ElectraModel as wide': ('ElectraModel', _BERT | {'embedding_size': 15}),
    'GPT2LMHeadModel': ('GPT2LMHeadModel', _GPT2),
    'GPT2Model': ('GPT2Model', _GPT2 | {'n_inner': 16, 'activation_function': 'relu'}),
    'LlamaForCausalLM': ('LlamaForCausalLM', _LLAMA | {'num_key_value_heads': 4}),
    'LlamaForCausalLM grouped': ('LlamaForCausalLM', _LLAMA | {
        'num_key_value_heads': 2, 'head_dim': 10, 'tie_word_embeddings': True,
        'rope_parameters': {'rope_type': 'default', 'rope_theta': 500.0}}),
    'LlamaForCausalLM with biases': ('LlamaForCausalLM', _LLAMA | {
        'num_key_value_heads': 1, 'attention_bias': True, 'mlp_bias': True,
        'hidden_act': 'gelu'}),
    'T5ForConditionalGeneration': ('T5ForConditionalGeneration', _T5),
    'T5ForConditionalGeneration v1.1': ('T5ForConditionalGeneration', _GATED),
    'T5ForConditionalGeneration of few buckets': ('T5ForConditionalGeneration', _T5 | {
        'relative_attention_num_buckets': 6, 'relative_attention_max_distance': 7}),
    'T5Model': ('T5Model', _T5),
    'MT5ForConditionalGeneration': ('MT5ForConditionalGeneration', _GATED),
    'BartForConditionalGeneration': ('BartForConditionalGeneration', _BART),
    'BartModel': ('BartModel', _BART | {'scale_embedding': True}),
    'MarianMTModel': ('MarianMTModel', _MARIAN),
    'MarianModel': ('MarianModel', _MARIAN),
}
ONE_OF_EACH = ['BertForPreTraining', 'RobertaForMaskedLM', 'DistilBertForSequenceClassification',
               'AlbertForMaskedLM', 'ElectraForSequenceClassification', 'GPT2LMHeadModel',
               'LlamaForCausalLM grouped', 'T5ForConditionalGeneration',
               'MT5ForConditionalGeneration', 'BartForConditionalGeneration', 'MarianMTModel']


def make(kind: str, seed: int = 0, **more) -> transformers.PreTrainedModel:
    """A model all of whose parameters are random, and numbers that float16 has."""
    name, options = KINDS[kind]
    of = getattr(transformers, name)
    config = of.config_class(**options | more)
    config._attn_implementation = 'eager'  # the one that shows its maps
    model = of(config).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, leaf in [*model.named_parameters(), *model.named_buffers()]:
            if leaf.is_floating_point() and 'inv_freq' not in path and not (
                    name.startswith('Marian') and 'embed_positions' in path):
                scale = leaf.ndim == 1 and path.endswith('weight')
                values = 0.3 * torch.randn(leaf.shape, generator=random) + scale
                leaf.copy_((values * 32).round() / 32)  # few bits: small golden files
    return model


def measured(model: transformers.PreTrainedModel, batch: dict, objective: str) -> dict:
    """{'logits', 'loss', 'hidden/encoder', 'maps/decoder/cross', 'gradients/NAME', ...}."""
    given = {name: torch.tensor(array if array.dtype == np.float32 else array.astype(np.int64))
             for name, array in _given(batch, objective).items()}
    with torch.enable_grad():
        found = model(**given, output_hidden_states=True, output_attentions=True)
        seen = _seen(found, batch, objective)
        loss = found.loss if batch['head'] else _plain_loss(seen, batch)
        loss.backward()
    seen['loss'] = loss
    seen |= {f'gradients/{name}': leaf.grad for name, leaf in model.named_parameters()
             if leaf.grad is not None}
    return {name: tensor.detach().float().numpy() for name, tensor in seen.items()}


def _given(batch: dict, objective: str) -> dict:
    """What the model's forward takes."""
    def labels(ids, real):
        return np.where(real, ids, -100)

    if objective == 'pairs':
        real = np.arange(batch['labels_BT'].shape[1]) < batch['target_lengths_B'][:, None]
        return {'input_ids': batch['source_BS'], 'attention_mask': _below(
            batch['source_lengths_B'], batch['source_BS']),
            'decoder_input_ids': batch['inputs_BT']} | _if(
                batch['head'], labels=labels(batch['labels_BT'], real))
    if objective == 'lm':
        return {'input_ids': batch['ids_BT'], 'attention_mask': batch['real']} | _if(
            batch['head'], labels=labels(batch['ids_BT'], batch['real']))
    given = {'input_ids': batch['inputs_BS'],
             'attention_mask': _below(batch['lengths_B'], batch['inputs_BS'])}
    if batch['segments']:
        given['token_type_ids'] = batch['types_BS']
    if objective.startswith('mlm'):
        rows, found = np.full(batch['inputs_BS'].shape, -100), batch['masked_lengths_B']
        for row, count in enumerate(found):
            rows[row, batch['masked_BP'][row, :count]] = batch['masked_labels_BP'][row, :count]
        given['labels'] = rows
        if objective == 'mlm_nsp':
            given['next_sentence_label'] = batch['nsp_labels_B']
    elif objective == 'answer':
        given['start_positions'], given['end_positions'] = batch['labels_B2'].T
    elif objective == 'tag':
        given['labels'] = np.where(batch['labels_BS'] < 0, -100, batch['labels_BS'])
    elif objective != 'none':
        given['labels'] = batch['numbers_B' if objective == 'regress' else 'labels_B']
    return given


def _if(holds, **given) -> dict:
    return given if holds else {}


def _below(lengths_B, ids_BS):
    return (np.arange(ids_BS.shape[1]) < lengths_B[:, None]).astype(np.int64)


def _seen(found, batch: dict, objective: str) -> dict:
    def stacked(name):
        return torch.stack(found[name])

    seen = {}
    for side, prefix in (('encoder', 'encoder_'), ('decoder', 'decoder_')):
        if f'{prefix}hidden_states' in found:
            seen[f'hidden/{side}'] = stacked(f'{prefix}hidden_states')[1:]
            seen[f'maps/{side}/self'] = stacked(f'{prefix}attentions')
    if found.get('cross_attentions'):
        seen['maps/decoder/cross'] = stacked('cross_attentions')
    if 'hidden_states' in found:
        side = 'decoder' if objective == 'lm' else 'encoder'
        seen[f'hidden/{side}'] = stacked('hidden_states')[1:]
        seen[f'maps/{side}/self'] = stacked('attentions')
    if objective == 'answer':
        seen['logits'] = torch.stack([found.start_logits, found.end_logits], -1)
    elif objective == 'mlm_nsp':
        seen |= {'logits': found.prediction_logits, 'next': found.seq_relationship_logits}
    elif batch['head']:
        logits = found.logits
        seen['logits'] = logits[..., None] if logits.shape == batch['real'].shape else logits
    else:
        seen['logits'] = seen['hidden/encoder' if objective == 'none' else 'hidden/decoder'][-1]
    if found.get('pooler_output') is not None:
        seen['pooled'] = found.pooler_output
    return seen


def _plain_loss(seen: dict, batch: dict):
    """Of a model without a head: the mean square of what a head would see."""
    if 'pooled' in seen:
        return seen['pooled'].square().mean()
    return seen['logits'][torch.tensor(batch['real'].copy())].square().mean()
