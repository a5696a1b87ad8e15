"""inspector.html: one page on which a person moves over tokens, layers and heads."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources

import numpy as np

from xformer.evaluate.looks import Look, Map


def inspector_page(title: str, about: str, texts: Sequence[Sequence[Look]]) -> str:
    """The page about the stacks of a model on each of some texts.

    It needs nothing else: its policy forbids every resource, and every script and style but its
    own two, which it knows by their hashes. Weights and probabilities are bytes, in 255ths.
    """
    page = resources.files('xformer').joinpath('inspector.html').read_text(encoding='utf-8')
    policy = ["default-src 'none'", "base-uri 'none'", "form-action 'none'"]
    for tag in ('style', 'script'):
        [inline] = re.findall(f'<{tag}>(.*?)</{tag}>', page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        policy.append(f"{tag}-src 'sha256-{digest}'")
    data = json.dumps([_text(looks) for looks in texts], ensure_ascii=False,
                      separators=(',', ':')).replace('<', '\\u003c')  # no text ends the script
    filling = {'POLICY': '; '.join(policy), 'TITLE': html.escape(title),
               'ABOUT': html.escape(about), 'DATA': data}
    return re.sub(r'\{\{([A-Z]+)\}\}', lambda match: filling[match[1]], page)


def _text(looks: Sequence[Look]) -> dict:
    lens = next(({'stack': look.stack, 'reads': look.reads, 'says': look.says,
                  'tokens': look.lens.tokens, 'probabilities': _bytes(look.lens.probabilities_LTK)}
                 for look in looks if look.lens), None)
    return {'maps': [_map(look, each) for look in looks for each in look.maps], 'lens': lens}


def _map(look: Look, each: Map) -> dict:
    return {'stack': look.stack, 'kind': each.kind, 'queries': each.queries, 'keys': each.keys,
            'entropy': each.entropy_LN.astype(float).round(3).tolist(),
            'weights': _bytes(each.weights_LNTS)}


def _bytes(shares: np.ndarray) -> str:
    """Base64 of numbers from 0 to 1, rounded to 255ths."""
    return base64.b64encode(np.rint(shares * 255).astype(np.uint8).tobytes()).decode()
