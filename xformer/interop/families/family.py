"""What is said of a family: its options, its tensors, its architectures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xformer.config import ModelConfig
from xformer.interop.options import Option, Theirs
from xformer.interop.tables import Table

NEUTRAL = frozenset((  # what config.json may say besides, which changes nothing that is computed
    # where the files come from, and what transformers does with them
    'model_type architectures transformers_version _name_or_path dtype torch_dtype tokenizer_class '
    'use_cache output_attentions output_hidden_states output_past return_dict use_return_dict '
    'torchscript xla_device gradient_checkpointing chunk_size_feed_forward task_specific_params '
    'prefix finetuning_task language model_parallel save_step tie_weights_ is_llama_config '
    'transformers.js_config sbert_ce_default_activation_function sentence_transformers '
    'force_bos_token_to_be_generated use_bfloat16 pretraining_tp '
    # initialisation, and the dropout of heads, which is model.dropout here
    'initializer_range initializer_factor init_std sinusoidal_pos_embds '
    'classifier_dropout classifier_dropout_prob '
    'classif_dropout seq_classif_dropout qa_dropout '
    # read with the architecture
    'id2label label2id num_labels _num_labels problem_type '
    # parts of other architectures, and what other options say again
    'summary_type summary_use_proj summary_activation summary_first_dropout summary_last_dropout '
    'summary_proj_to_labels pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers '
    'pooler_size_per_head pooler_type directionality n_ctx n_positions num_hidden_layers '
    'is_gated_act dense_act_fn decoder_vocab_size add_bias_logits extra_pos_embeddings '
    'net_structure_type gap_size num_memory_blocks down_scale_factor rope_parameters rope_scaling '
    'rope_theta tie_word_embeddings is_decoder is_encoder_decoder cross_attention_hidden_size '
    'sep_token_id bos_token_id eos_token_id').split())
# and what changes nothing with this value
OFF = {'pruned_heads': {}, 'tie_encoder_decoder': False, 'rope_interleaved': False}


@dataclass(frozen=True)
class Architecture:
    """One of Hugging Face's classes: what it was trained for, and the tensors of its head.

    `model` are fields of ModelConfig that differ from the family's. `bare`: its files leave out
    the family's prefix. `labels`: of its outputs, where config.json names none.
    """

    objective: str
    head: Table = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    bare: bool = False
    labels: tuple[str, ...] = ()

    @property
    def pools(self) -> bool:
        """Whether its head has a layer in the place of BERT's pooler."""
        return 'encoder/pooler/kernel' in self.head


@dataclass(frozen=True)
class Family:
    """Everything that the readers and the writer need to know of a `model_type`.

    model: fields of ModelConfig that all its models share
    table: of a model with its head missing
    prefix: of the names in `table`; files of a model without a head leave it out
    tied: other names of the token embeddings, under which a file may hold them once more or alone;
        one that may be the output's own comes last
    ignored: tensors that hold no parameters, or none that are used (patterns of fnmatch)
    tokenizer: the kind that it usually has
    generation: settings of generation where the folder says nothing
    adjust: completes what config.json says before its options are read
    complete: adds to what its options say what other readers want
    """

    model_type: str
    options: Sequence[Option]
    model: Mapping[str, Any]
    table: Callable[[ModelConfig], Table]
    architectures: Mapping[str, Architecture]
    prefix: str = ''
    tied: Sequence[str] = ()
    ignored: Sequence[str] = ()
    tokenizer: str = 'wordpiece'
    generation: Mapping[str, Any] = field(default_factory=dict)
    adjust: Callable[[Theirs], Theirs] = lambda theirs: theirs
    complete: Callable[[Theirs], Theirs] = lambda theirs: theirs
