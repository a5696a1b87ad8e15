"""Make it formal: sentences typed in a hurry, to the sentences as they were published.

27,988 sentences of LibreOffice's help, made casual by rule (short forms, no capitals, no full
stop): constructed, since no corpus of styles may be used here.

The recipe of translate_libreoffice; about 13 minutes on 2 CPU cores. Test, seed 0: 89.1 BLEU, 95.4
chrF, where changing nothing has 62.5 and 84.9.

    python -m experiments.train --config=style_formal
    python -m experiments.evaluate --model=runs/style_formal --split=test
"""

from experiments.configs import translate_libreoffice
from xformer.config import override

CONFIG = override(translate_libreoffice.CONFIG, {
    'data.dataset': 'libreoffice_casual', 'train.steps': 2000})

VARIANTS = translate_libreoffice.VARIANTS
