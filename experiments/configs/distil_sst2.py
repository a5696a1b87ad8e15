"""A student of half the layers learns SST-2 from its teacher (DistilBERT; Sanh et al. 2019).

Two layers that begin as every other one of runs/finetune_sst2, the cross-entropy to the teacher's
labels at temperature 2, the cosine of the hidden states, and the true labels. To compare: two
layers from scratch, the last command.

About 2 minutes on 2 CPU cores. Test, seed 0: 80.1 % with a teacher of 80.2 %; two layers from
scratch have 79.5 %. DistilBERT keeps 97 % of BERT's score (its paper, table 1).

    python -m experiments.train --config=finetune_sst2
    python -m experiments.train --config=distil_sst2
    python -m experiments.evaluate --model=runs/distil_sst2 --split=test
    python -m experiments.train --config=finetune_sst2 --config.model.num_encoder_layers=2 \\
        --workdir=runs/two_layers

`:smoke` learns from runs/smoke/finetune_sst2, which `make smoke` trains before.
"""

from experiments.configs import finetune_sst2
from xformer.config import override

CONFIG = override(finetune_sst2.CONFIG, {
    'model.num_encoder_layers': 2, 'train.init_from': 'runs/finetune_sst2',
    'train.teacher': 'runs/finetune_sst2', 'train.soft_weight': 2.5, 'train.cosine_weight': 0.5})

VARIANTS = {'smoke': finetune_sst2.VARIANTS['smoke'] | {
    'model.num_encoder_layers': 1, 'train.init_from': 'runs/smoke/finetune_sst2',
    'train.teacher': 'runs/smoke/finetune_sst2'}}
