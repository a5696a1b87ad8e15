"""Turn a run folder into a Hugging Face folder, or a Hugging Face folder into a run folder.

    python -m experiments.convert --model=runs/finetune_sst2 --output=sst2_bert --family=bert
    python -m experiments.convert --model=runs/domain_r8 --output=r8_vectors --pool=mean
    python -m experiments.convert --model=downloads/gpt2 --output=runs/gpt2

A Hugging Face folder has config.json, the parameters in float32 and the tokenizer's files. Where
PyTorch and transformers are installed, the outputs of the two are compared and the largest
difference is printed. With --pool it is an encoder without its head, of which
sentence-transformers makes vectors. Every command, and train.init_from, read Hugging Face folders
as they are; a run folder made of one holds a single checkpoint that nothing was measured of, so
give --checkpoint=last with it.
"""

import functools
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path

from absl import flags

from experiments import cli, reading
from xformer.config import CHOOSING, UserError, override, to_json
from xformer.console import say


def define(values: flags.FlagValues) -> None:
    reading.define(values)
    flags.DEFINE_string('output', None, f'folder to make ({cli.REQUIRED})', flag_values=values)
    flags.DEFINE_string('family', None, "config.json's model_type, as bert or llama (default: the "
                        'first that the model belongs to)', flag_values=values)
    flags.DEFINE_enum('pool', None, ['mean', 'cls', 'max'], 'how sentence-transformers is to make '
                      'a vector of a text', flag_values=values)


def main(argv: list[str]) -> None:
    values = cli.parse(argv, __doc__, define, sections=())
    reading.check_output(values.output, folder=True)
    from xformer.interop.folder import is_checkpoint
    from xformer.interop.sentences import MODULES, transformer_folder
    imported = is_checkpoint(Path(values.model))
    for flag in ('family', 'pool'):
        if imported and values[flag].present:
            raise UserError(f'--{flag} has no effect on {values.model}, a Hugging Face folder that '
                            'becomes a run; leave it out')
    config = reading.config_of(values)
    if values.pool and config.model.family != 'encoder':
        raise UserError('--pool is for an encoder, of which sentence-transformers makes vectors; '
                        f'model.family is {config.model.family}')
    run, _ = reading.open_model(values, config)
    output = Path(values.output)
    part = Path(tempfile.mkdtemp(dir=output.parent, prefix=f'{output.name}.'))
    try:
        made = (_write_run(run, part) if imported else
                _write_checkpoint(run, part, values.family, values.pool))
        part.chmod(0o755)
        os.replace(part, output)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # where it could not be finished
    _print_written(output, made)
    if imported and (Path(values.model) / MODULES).is_file():
        say(f'what the run cannot say: how sentence-transformers makes vectors of it ({MODULES}); '
            'give embed the folder itself')
    if all(map(importlib.util.find_spec, ('torch', 'transformers'))):
        theirs = transformer_folder(Path(values.model)) if imported else output
        print(f'parity      {_apart(run, theirs, made, values.pool):.1e} '
              '(largest difference from PyTorch ÷ largest output)')


def _write_checkpoint(run, folder: Path, family: str | None, pool: str | None) -> str:
    """Returns the name of the architecture."""
    from xformer.interop.folder import CONFIG, write_checkpoint
    from xformer.interop.generation import write_generation
    from xformer.interop.sentences import write_sentences
    from xformer.interop.tokenizer_export import write_tokenizers
    config, arrays = run.config, _arrays(run)
    if pool:
        write_sentences(folder, pool, config)
        config = override(config, {'data.objective': 'none', 'data.lowercase_source': False})
        if config.model.pooler_activation != 'tanh' or family in ('distilbert', 'electra'):
            # not BERT's pooler, but a layer of the head
            config = override(config, {'model.pooler': False, 'model.pooler_activation': 'tanh'})
        dropped = () if config.model.pooler else ('encoder/pooler/',)
        arrays = {path: array for path, array in arrays.items()
                  if path.startswith('encoder/') and not path.startswith(dropped)}
    labels = run.tokenizers.labels if config.data.objective in CHOOSING else ()
    name, unsaid = write_checkpoint(folder, config, arrays, family, labels)
    model_type = json.loads((folder / CONFIG).read_text())['model_type']
    write_tokenizers(run.tokenizers, folder, model_type, segments=config.model.num_segments > 1,
                     longest=None if config.model.positions == 'relative' else
                     config.model.max_length)
    if config.model.family != 'encoder':
        unsaid += write_generation(folder, config)
    if unsaid:
        say(f'what the folder cannot say: {", ".join(unsaid)}')
    if config.data.lowercase_source:
        say('this run lower-cases its texts (data.lowercase_source), which the folder cannot say: '
            'give it lower-cased texts')
    return name


def _arrays(run) -> dict:
    """The parameters by path. A head of numbers gives deviations from the mean of the training
    data, in units of their spread: as written it gives the numbers."""
    import jax

    from xformer.data.layouts import scale
    from xformer.interop.tables import by_path
    arrays = by_path(jax.device_get(run.params))
    if run.config.data.objective == 'regress':
        mean, deviation = scale(run.tokenizers)
        arrays['head/kernel'] = arrays['head/kernel'] * deviation
        arrays['head/bias'] = arrays['head/bias'] * deviation + mean
    return arrays


def _write_run(run, folder: Path) -> str:
    """Returns the name of the architecture that it was."""
    from xformer.train.checkpoint import Checkpoints
    (folder / 'config.json').write_text(to_json(run.config))
    (folder / 'manifest.json').write_text(json.dumps(
        run.manifest | {'converted_from': str(run.folder)}, indent=2) + '\n')
    run.tokenizers.save(folder)
    checkpoints = Checkpoints(folder / 'checkpoints', 1, 0, say, run.config.train.best_by)
    checkpoints.save(0, {'params': run.params}, {})
    checkpoints.wait()
    return run.checkpoint


def _print_written(output: Path, made: str) -> None:
    print(f'folder      {output} ({made})')
    for path in sorted(output.rglob('*')):
        if path.is_file() and 'checkpoints' not in path.parts:
            print(f'{path.stat().st_size:>11,} {path.relative_to(output)}')


def _apart(run, folder: Path, name: str, pool: str | None) -> float:
    """Largest difference ÷ largest value of the outputs, of ours and of PyTorch's, for random
    tokens."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch
    import transformers

    from xformer.interop.tables import nested
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model, length = run.config.model, min(16, run.config.model.max_length)
    known = np.setdiff1d(np.arange(model.vocab_size, dtype=np.int32), run.tokenizers.special.ids())
    ids = np.random.default_rng(0).choice(known, (2, length))  # padding has no position there
    given = {'input_ids': torch.tensor(ids).long(), 'attention_mask': torch.ones(ids.shape)}
    inputs = [jnp.asarray(ids)]
    if model.family != 'decoder':
        inputs.append(jnp.full(len(ids), length))
    if model.family == 'seq2seq':
        given['decoder_input_ids'] = given['input_ids']
        inputs.append(inputs[0])
    objective = 'none' if pool else run.config.data.objective
    kind = {'none': 'AutoModel', 'lm': 'AutoModelForCausalLM',
            'pairs': 'AutoModelForSeq2SeqLM'}.get(objective, name)
    with torch.no_grad():
        found = getattr(transformers, kind).from_pretrained(
            folder, dtype=torch.float32).eval()(**given)
    apply = functools.partial(run.model.apply, {'params': nested(_arrays(run))})
    if objective == 'none':
        ours = apply(*inputs, method='features')[-1]
        theirs = found.last_hidden_state
    elif objective in ('mlm', 'mlm_nsp'):
        everywhere = jnp.broadcast_to(jnp.arange(length)[None], ids.shape)
        ours, _ = apply(*inputs, jnp.zeros_like(inputs[0]), everywhere)
        theirs = found[0]
    else:
        segments = [jnp.zeros_like(inputs[0])] if model.family == 'encoder' else []
        ours = apply(*inputs, *segments)
        theirs = found.logits if objective != 'answer' else torch.stack(
            [found.start_logits, found.end_logits], -1)
        if ours.ndim > theirs.ndim:  # ELECTRA's discriminator: two outputs for one of a sigmoid
            ours = ours[..., 1] - ours[..., 0]
    ours, theirs = jax.device_get(ours), theirs.float().numpy()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


if __name__ == '__main__':
    cli.call(main)
