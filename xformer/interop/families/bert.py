"""Encoders: BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019), DistilBERT (Sanh et al. 2019),
ALBERT (Lan et al. 2020), ELECTRA's discriminator (Clark et al. 2020)."""

from collections.abc import Sequence

from xformer.config import UserError
from xformer.interop.families.family import Architecture, Family
from xformer.interop.options import ACTIVATIONS, Option, Theirs, chosen, fixed
from xformer.interop.tables import Place, Table, embedding, linear, norm, sigmoid, within

ENCODER = {'family': 'encoder', 'num_decoder_layers': 0, 'embedding_norm': True,
           'positions': 'learned', 'embedding_scale': 'none', 'init': 'bert'}
OPTIONS = [
    Option('vocab_size', 'vocab_size', 30_522),
    Option('hidden_size', 'd_model', 768),
    Option('num_hidden_layers', 'num_encoder_layers', 12),
    Option('num_attention_heads', 'num_heads', 12),
    Option('intermediate_size', 'd_ff', 3072),
    chosen('hidden_act', 'activation', 'gelu', ACTIVATIONS),
    Option('hidden_dropout_prob', 'dropout', 0.1),
    Option('attention_probs_dropout_prob', 'attention_dropout', 0.1),
    Option('max_position_embeddings', 'max_length', 512),
    Option('type_vocab_size', 'num_segments', 2),
    Option('layer_norm_eps', 'norm_epsilon', 1e-12),
    Option('pad_token_id', 'pad_id', 0),
    *fixed(position_embedding_type='absolute', is_decoder=False, add_cross_attention=False,
           tie_word_embeddings=True),
]


def changed(options: Sequence[Option], *others: Option) -> list[Option]:
    """The options with others in the place of those of the same name, or after them."""
    new = {option.theirs: option for option in others}
    return [new.pop(option.theirs, option) for option in options] + list(new.values())


def embeddings(theirs: str, skip: int = 0) -> Table:
    """Of tokens, positions and segments, and their norm."""
    return {**embedding('embedding', f'{theirs}.word_embeddings'),
            **embedding('input_embedding/position_embedding', f'{theirs}.position_embeddings',
                        skip),
            **embedding('input_embedding/segment_embedding', f'{theirs}.token_type_embeddings'),
            **norm('input_embedding/norm', f'{theirs}.LayerNorm')}


def block(query: str, key: str, value: str, out: str, attention_norm: str, up: str, down: str,
          feed_forward_norm: str) -> Table:
    """A layer, of the names that they have in the family."""
    return {**linear('self_attention/query', query), **linear('self_attention/key', key),
            **linear('self_attention/value', value), **linear('self_attention/out', out),
            **norm('self_attention_norm', attention_norm),
            **linear('feed_forward/up', up), **linear('feed_forward/down', down),
            **norm('feed_forward_norm', feed_forward_norm)}


BLOCK = block('attention.self.query', 'attention.self.key', 'attention.self.value',
              'attention.output.dense', 'attention.output.LayerNorm', 'intermediate.dense',
              'output.dense', 'output.LayerNorm')


def encoder(prefix: str, skip: int = 0) -> Table:
    """BERT's names."""
    return within('encoder', prefix, {
        **embeddings('embeddings', skip),
        **within('encoder/layers', 'encoder.layer.*', BLOCK),
        **linear('pooler', 'pooler.dense')})


def masked(transform: str, transform_norm: str, bias: str) -> Table:
    """The head for masked tokens."""
    return {**linear('transform', transform), **norm('transform_norm', transform_norm),
            'output_bias': Place(bias)}


def heads(name: str, classify: Architecture | None = None) -> dict[str, Architecture]:
    """The heads that all these families call the same."""
    return {f'{name}ForSequenceClassification':
            classify or Architecture('classify', linear('head', 'classifier')),
            f'{name}ForTokenClassification': Architecture('tag', linear('head', 'classifier')),
            f'{name}ForQuestionAnswering': Architecture('answer', linear('head', 'qa_outputs')),
            f'{name}Model': Architecture('none', bare=True)}


def two_layers(activation: str, first: str, second: str) -> Architecture:
    """A classifier with a layer in the place of BERT's pooler."""
    return Architecture('classify', {**linear('encoder/pooler', first), **linear('head', second)},
                        {'pooler_activation': activation})


_BERT_MASKED = masked('cls.predictions.transform.dense', 'cls.predictions.transform.LayerNorm',
                      'cls.predictions.bias')
BERT = Family(
    'bert', OPTIONS, ENCODER, lambda model: encoder('bert'), {
        **heads('Bert'),
        'BertForMaskedLM': Architecture('mlm', _BERT_MASKED),
        'BertForPreTraining': Architecture('mlm_nsp', {
            **_BERT_MASKED, **linear('next_sentence_head', 'cls.seq_relationship')})},
    prefix='bert', tied=['cls.predictions.decoder.weight'],
    ignored=['*embeddings.position_ids', 'cls.predictions.decoder.bias'])


def _positions(theirs: Theirs, sign: int) -> Theirs:
    """With as many positions more or fewer as there are before the first: pad_token_id + 1."""
    rows, pad = theirs.get('max_position_embeddings', 512), theirs.get('pad_token_id', 1)
    return theirs | {'max_position_embeddings': rows + sign * (pad + 1)}


ROBERTA = Family(
    'roberta', changed(
        OPTIONS, Option('vocab_size', 'vocab_size', 50_265), Option('pad_token_id', 'pad_id', 1),
        # its tokenizer knows of one kind of segment, however many the embeddings have
        Option('type_vocab_size', 'num_segments', 2, read=lambda kinds: min(kinds, 1))),
    ENCODER, lambda model: {
        **encoder('roberta', model.pad_id + 1),
        **embedding('encoder/input_embedding/segment_embedding',
                    'roberta.embeddings.token_type_embeddings', rows=1)}, {
        **heads('Roberta', two_layers('tanh', 'classifier.dense', 'classifier.out_proj')),
        'RobertaForMaskedLM': Architecture(
            'mlm', masked('lm_head.dense', 'lm_head.layer_norm', 'lm_head.bias'))},
    prefix='roberta', tokenizer='byte_bpe', tied=['lm_head.decoder.weight'],
    ignored=['*embeddings.position_ids', 'lm_head.decoder.bias'],
    adjust=lambda theirs: _positions(theirs, -1), complete=lambda theirs: _positions(theirs, 1))

DISTILBERT = Family(
    'distilbert', [
        Option('vocab_size', 'vocab_size', 30_522),
        Option('dim', 'd_model', 768),
        Option('n_layers', 'num_encoder_layers', 6),
        Option('n_heads', 'num_heads', 12),
        Option('hidden_dim', 'd_ff', 3072),
        chosen('activation', 'activation', 'gelu', ACTIVATIONS),
        Option('dropout', 'dropout', 0.1),
        Option('attention_dropout', 'attention_dropout', 0.1),
        Option('max_position_embeddings', 'max_length', 512),
        Option('pad_token_id', 'pad_id', 0),
        *fixed(tie_word_embeddings=True)],
    {**ENCODER, 'num_segments': 0, 'norm_epsilon': 1e-12},
    lambda model: within('encoder', 'distilbert', {
        **embeddings('embeddings'),
        **within('encoder/layers', 'transformer.layer.*', block(
            'attention.q_lin', 'attention.k_lin', 'attention.v_lin', 'attention.out_lin',
            'sa_layer_norm', 'ffn.lin1', 'ffn.lin2', 'output_layer_norm'))}), {
        **heads('DistilBert', two_layers('relu', 'pre_classifier', 'classifier')),
        'DistilBertForMaskedLM': Architecture(
            'mlm', masked('vocab_transform', 'vocab_layer_norm', 'vocab_projector.bias'))},
    prefix='distilbert', tied=['vocab_projector.weight'],
    ignored=['*embeddings.position_ids'])


def _projected(theirs: Theirs) -> Theirs:
    """There a map follows the embeddings whatever their width, here only where it is another."""
    E, D = theirs.get('embedding_size', 128), theirs.get('hidden_size', 4096)
    if E == D:
        raise UserError(f'an ALBERT with embeddings as wide as the model (embedding_size={E}, '
                        f'hidden_size={D}) is not supported')
    return theirs


ALBERT = Family(
    'albert', changed(
        OPTIONS, Option('vocab_size', 'vocab_size', 30_000),
        Option('embedding_size', 'embedding_size', 128), Option('hidden_size', 'd_model', 4096),
        Option('num_attention_heads', 'num_heads', 64), Option('intermediate_size', 'd_ff', 16_384),
        chosen('hidden_act', 'activation', 'gelu_new', ACTIVATIONS),
        Option('hidden_dropout_prob', 'dropout', 0.0),
        Option('attention_probs_dropout_prob', 'attention_dropout', 0.0),
        *fixed(num_hidden_groups=1, inner_group_num=1)),
    {**ENCODER, 'share_layers': True},
    lambda model: within('encoder', 'albert', {
        **embeddings('embeddings'),
        **linear('input_embedding/project', 'encoder.embedding_hidden_mapping_in'),
        **within('encoder/layers', 'encoder.albert_layer_groups.*.albert_layers.0', block(
            'attention.query', 'attention.key', 'attention.value', 'attention.dense',
            'attention.LayerNorm', 'ffn', 'ffn_output', 'full_layer_layer_norm')),
        **linear('pooler', 'pooler')}), {
        **heads('Albert'),
        'AlbertForMaskedLM': Architecture(
            'mlm', masked('predictions.dense', 'predictions.LayerNorm', 'predictions.bias'))},
    prefix='albert', tokenizer='unigram', tied=['predictions.decoder.weight'],
    ignored=['*embeddings.position_ids', 'predictions.decoder.bias'],
    adjust=_projected, complete=_projected)

ELECTRA = Family(
    'electra', changed(
        OPTIONS, Option('embedding_size', 'embedding_size', 128),
        Option('hidden_size', 'd_model', 256), Option('num_attention_heads', 'num_heads', 4),
        Option('intermediate_size', 'd_ff', 1024)),
    ENCODER, lambda model: {
        **encoder('electra'),
        **within('encoder', 'electra', linear('input_embedding/project', 'embeddings_project'))}, {
        'ElectraForPreTraining': Architecture('tag', {  # which tokens a generator has replaced
            **linear('encoder/pooler', 'discriminator_predictions.dense'),
            **sigmoid('head', 'discriminator_predictions.dense_prediction')},
            {'activation': 'gelu', 'pooler': True, 'pooler_activation': 'gelu', 'num_labels': 2},
            labels=('O', 'replaced')),
        **heads('Electra', two_layers('gelu', 'classifier.dense', 'classifier.out_proj'))},
    prefix='electra', ignored=['*embeddings.position_ids'])
