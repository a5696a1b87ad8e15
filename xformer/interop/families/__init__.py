"""The families of checkpoints, by the `model_type` of config.json."""

from xformer.interop.families.bart import BART, MARIAN
from xformer.interop.families.bert import ALBERT, BERT, DISTILBERT, ELECTRA, ROBERTA
from xformer.interop.families.family import NEUTRAL, OFF, Architecture, Family
from xformer.interop.families.gpt2 import GPT2
from xformer.interop.families.llama import LLAMA
from xformer.interop.families.t5 import MT5, T5

FAMILIES = {family.model_type: family for family in (
    BERT, ROBERTA, DISTILBERT, ALBERT, ELECTRA, GPT2, LLAMA, T5, MT5, BART, MARIAN)}

__all__ = ['FAMILIES', 'NEUTRAL', 'OFF', 'Architecture', 'Family']
