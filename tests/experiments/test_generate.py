"""Generation: every way in gives the same outputs, in order, best first."""

import dataclasses
import importlib
import io
import json
import random
import shutil
from types import SimpleNamespace

import pytest
from absl import flags

from experiments import cli, reading
from experiments import generate as command
from xformer.config import Config, DataConfig, UserError, leaves, override, to_json
from xformer.data.tokenizers import train_tokenizers
from xformer.interop.generation import to_config

WORDS = random.Random(0).choices(['ab', 'dcba', 'bad', 'cab', 'dd', 'abcdabc'], k=40)


@pytest.fixture
def generate(run, trained):
    def generate(*args, **options):
        result = run('generate', f'--model={trained}', *args, **options)
        assert (result.returncode, result.stderr) == (0, '')
        return result.stdout
    return generate


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """call('--model=...', ..., text=standard input): what the command writes to stdout.

    It is called from here, which saves its start.
    """
    monkeypatch.setattr(cli, 'prepare_jax', lambda: None)
    monkeypatch.chdir(tmp_path)

    def call(*args, text: str = '') -> str:
        monkeypatch.setattr('sys.stdin', io.StringIO(text))
        command.main(['generate', *map(str, args)])
        call.stderr = (captured := capsys.readouterr()).err
        return captured.out
    return call


def test_prompts_a_file_and_standard_input_are_the_same(generate, trained, contents, tmp_path):
    before = contents(trained)
    lines = '\n'.join(WORDS) + '\n'
    (tmp_path / 'words.txt').write_text(lines)
    of_file = generate('--input=words.txt', '--json')
    assert [json.loads(line)['source'] for line in of_file.splitlines()] == WORDS
    assert generate('--input=-', '--json', text=lines) == of_file
    assert contents(trained) == before


def test_a_split_is_a_file_of_its_sources_each_once(call, trained, tmp_path):
    pairs = [json.loads(line) for line in (trained / 'data/test.jsonl').read_text().splitlines()]
    sources = list(dict.fromkeys(source for source, _ in pairs))
    (tmp_path / 'sources.txt').write_text('\n'.join(sources) + '\n')
    assert call(f'--model={trained}', '--split=test') == call(f'--model={trained}',
                                                              '--input=sources.txt')
    scored = call(f'--model={trained}', '--split=test', '--score').splitlines()
    assert [tuple(line.split('\t')[1:]) for line in scored] == list(dict.fromkeys(
        map(tuple, pairs)))


def test_a_split_of_documents_is_their_sentences_as_a_file_has_them(tmp_path):
    (tmp_path / 'data').mkdir()
    documents = [['a\tb', ' c'], ['d\n', '\n', 'e']]
    (tmp_path / 'data/dev.jsonl').write_text(''.join(json.dumps(d) + '\n' for d in documents))
    values = SimpleNamespace(model=str(tmp_path), split='dev')
    config = override(Config(), {'model.family': 'decoder', 'data.objective': 'lm'})
    assert reading.texts_of_split(values, config) == ['a\tb', 'c', 'd', 'e']
    (tmp_path / 'data/dev.jsonl').write_text(json.dumps(['a long text']))
    with pytest.raises(UserError, match='the dev split is one whole text'):
        reading.texts_of_split(values, override(config, {'data.format': 'text'}))


def test_two_prompts_give_what_they_gave_among_forty(call, trained):
    forty = [f'--prompt={word}' for word in WORDS]
    among = call(f'--model={trained}', *forty, '--json').splitlines()
    alone = call(f'--model={trained}', *forty[:2], '--json').splitlines()
    for found, wanted in zip(map(json.loads, alone), map(json.loads, among[:2]), strict=True):
        assert found['source'] == wanted['source']
        assert found['outputs'][0]['text'] == wanted['outputs'][0]['text']
        assert abs(found['outputs'][0]['score'] - wanted['outputs'][0]['score']) < 1e-5


def test_several_outputs_come_best_first(call, trained):
    asked = (f'--model={trained}', '--num_outputs=3', *(f'--prompt={word}' for word in WORDS))
    as_json, as_text = call(*asked, '--json'), call(*asked)
    assert as_text.splitlines() == ['\t'.join(
        output['text'] for output in json.loads(line)['outputs']) for line in as_json.splitlines()]
    assert len(set(as_text.splitlines())) > 1  # else the order would not show
    for line in map(json.loads, as_json.splitlines()):
        assert line.keys() == {'source', 'outputs'}
        scores = [output['score'] for output in line['outputs']]
        assert scores == sorted(scores, reverse=True)
        texts = [output['text'] for output in line['outputs']]
        assert len(texts) == 3 == len(set(texts))


def test_a_file_of_outputs(run, trained, tmp_path):
    result = run('generate', f'--model={trained}', '--prompt=ab', '--prompt=bad', '--json',
                 '--num_outputs=2', '--output=out.jsonl')
    assert (result.returncode, result.stdout) == (0, '')
    assert result.stderr == '2 outputs: out.jsonl\n'
    lines = (tmp_path / 'out.jsonl').read_text().splitlines()
    assert [json.loads(line)['source'] for line in lines] == ['ab', 'bad']


def test_symbols_never_seen_are_counted_not_feared(run, trained):
    result = run('generate', f'--model={trained}', '--prompt=aXb', '--prompt=漢字🙂')
    assert result.returncode == 0
    assert result.stdout.count('\n') == 2
    assert result.stderr.count('\n') == 1 and '4' in result.stderr


def test_a_reader_that_has_seen_enough_is_no_error(start, trained, tmp_path):
    (tmp_path / 'many.txt').write_text('abcd\n' * 1000)
    with start('generate', f'--model={trained}', '--input=many.txt', '--json', '--num_outputs=4',
               cwd=tmp_path) as process:  # more than a pipe holds
        first = process.stdout.readline()
        process.stdout.close()
        stderr = process.stderr.read()
    assert json.loads(first)['source'] == 'abcd'
    assert (process.returncode, stderr) == (0, '')


GREEDY = '--config.decode.beam_size=1'
SHORT = (GREEDY, '--max_new_tokens=8')


def test_examples_are_shown_in_the_template_and_the_output_is_one_line(
        call, language_model, tmp_path):
    (tmp_path / 'solved.tsv').write_text('1+1\t2\n2+7\t9\n')
    (tmp_path / 'sums.txt').write_text('3+4\n5+5\n')
    found = call(f'--model={language_model}', '--input=sums.txt', '--examples=solved.tsv',
                 '--template={source}={target}', '--json', *SHORT)
    by_hand = call(f'--model={language_model}', '--prompt=1+1=2\n2+7=9\n3+4=',
                   '--prompt=1+1=2\n2+7=9\n5+5=', '--stop=\n', '--json', *SHORT)
    assert [json.loads(line)['source'] for line in found.splitlines()] == ['3+4', '5+5']
    found, by_hand = ([json.loads(line)['outputs'] for line in lines.splitlines()]
                      for lines in (found, by_hand))
    assert found == by_hand
    assert all(output['text'].isdigit() for [output] in found)


def test_streamed_asked_for_and_drafted_outputs_are_the_plain_ones(call, language_model):
    model = f'--model={language_model}'
    prompts = ['3+4=', '1+0=1\n9+']
    plain = [call(model, f'--prompt={prompt}', '--stop=\n', *SHORT) for prompt in prompts]
    assert [call(model, f'--prompt={prompt}', '--stop=\n', '--stream', *SHORT)
            for prompt in prompts] == plain
    assert call(model, '--prompt=3+4=', '--stop=\n', f'--draft={language_model}',
                '--draft_tokens=2', *SHORT) == plain[0]
    assert 'drafted tokens: ' in call.stderr and '%)' in call.stderr
    assert call(model, '--interactive', '--stop=\n', *SHORT, text='3+4=\n\n3+4=\n') == 2 * plain[0]
    assert 'input 1 is empty' in call.stderr


def test_samples_repeat_with_their_seed(call, language_model):
    def samples(seed):
        return call(f'--model={language_model}', '--prompt=3+4=7', '--num_outputs=3', '--json',
                    '--config.decode.strategy=sample', '--max_new_tokens=6', f'--seed={seed}')
    first = samples(1)
    assert len({output['text'] for output in json.loads(first)['outputs']}) > 1
    assert samples(1) == first != samples(2)


def test_a_task_stands_for_settings_that_may_be_given(call, trained):
    asked = (f'--model={trained}', '--json', *(f'--prompt={word}' for word in WORDS[:4]))
    found = call(*asked, '--task=summarize', '--max_length=7', '--min_length=4')
    assert found == call(
        *asked, '--config.decode.beam_size=6', '--config.decode.length_penalty=length',
        '--config.decode.alpha=1', '--config.decode.min_length=4', '--config.decode.max_length=7',
        '--config.decode.no_repeat_ngram=3')
    assert call(*asked, '--task=summarize', '--min_length=0') == call(
        *asked, '--task=summarize', '--min_length=0', '--max_length=8')  # what the model takes
    assert call(*asked, '--task=summarize', '--max_new_tokens=4') == call(
        *asked, '--task=summarize', '--max_length=4')
    assert found != call(*asked, '--task=translate') == call(
        *asked, '--config.decode.beam_size=4', '--config.decode.alpha=0.6')


def test_a_task_leaves_what_a_hugging_face_folder_says(small, tmp_path):
    (tmp_path / 'config.json').write_text('{"model_type": "bart"}')
    config = override(small('seq2seq').config, {'model.max_length': 512})
    given = {'num_beams': 4, 'length_penalty': 2.0, 'min_length': 56, 'max_length': 142}
    for theirs, flag, expected in (
            (given, '--num_outputs=1', {'beam_size': 4, 'alpha': 2.0, 'min_length': 56,
                                        'max_length': 141, 'no_repeat_ngram': 3}),
            (given, '--min_length=5', {'beam_size': 4, 'min_length': 5, 'max_length': 141}),
            ({}, '--num_outputs=1', {'beam_size': 6, 'length_penalty': 'length', 'alpha': 1.0,
                                     'min_length': 5, 'max_length': 60})):
        values = cli.parse(['generate', f'--model={tmp_path}', '--task=summarize', flag], '',
                           command.define, sections=('decode',))
        read = override(config, to_config(theirs, config.model)[0])
        if flag.startswith('--min'):
            values['config.decode.min_length'].value = '5'
            read = override(read, {'decode.min_length': 5})
        changed, prefix = command._for_task(read, values)
        assert {name: getattr(changed.decode, name) for name in expected} == expected
        assert prefix == ''


T5_TASKS = {
    'summarization': {'early_stopping': True, 'length_penalty': 2.0, 'max_length': 200,
                      'min_length': 30, 'no_repeat_ngram_size': 3, 'num_beams': 4,
                      'prefix': 'summarize: '},
    **{f'translation_en_to_{other}': {
        'early_stopping': True, 'max_length': 300, 'num_beams': 4,
        'prefix': f'translate English to {language}: '} for other, language in (
            ('de', 'German'), ('fr', 'French'))}}


@pytest.mark.parametrize('task, flags, prefix, expected', [
    ('summarize', {}, 'summarize: ', {'beam_size': 4, 'alpha': 2.0, 'min_length': 30,
                                      'max_length': 199, 'no_repeat_ngram': 3}),
    ('summarize', {'max_length': 20}, 'summarize: ', {'min_length': 20, 'max_length': 20}),
    ('summarization', {'beam_size': 2}, 'summarize: ', {'beam_size': 2, 'no_repeat_ngram': 3}),
    ('translation_en_to_fr', {}, 'translate English to French: ',
     {'beam_size': 4, 'max_length': 299, 'alpha': 1.0, 'no_repeat_ngram': 0})])
def test_a_task_is_what_t5s_folder_says_of_it(task, flags, prefix, expected, small, tmp_path):
    others = {'summarization_cnn': {'num_beams': 9}}  # as BART has beside the plain one
    (tmp_path / 'config.json').write_text(json.dumps(
        {'model_type': 't5', 'task_specific_params': T5_TASKS | others}))
    config = override(small('seq2seq').config, {'model.max_length': 512})
    given = {f'decode.{name}': value for name, value in flags.items()}
    values = cli.parse(['generate', f'--model={tmp_path}', f'--task={task}',
                        *(f'--config.{name}={value}' for name, value in given.items())], '',
                       command.define, sections=('decode',))
    read = override(config, to_config({}, config.model)[0] | given)
    changed, before = command._for_task(read, values)
    assert before == prefix
    assert {name: getattr(changed.decode, name) for name in expected} == expected


@pytest.mark.parametrize('task, said, sentence', [
    ('translate', T5_TASKS, 'may be any of translation_en_to_de, translation_en_to_fr of '),
    ('paint', T5_TASKS,
     "has no task 'paint'; there are: translate, summarize, summarization, translation"),
    *(('summarize', said, 'has task_specific_params that are no settings by task; restore it') for
      said in (['summarization'], {'summarization': 4}, {'summarization': {'prefix': 1}}))])
def test_a_task_that_the_folder_leaves_open(task, said, sentence, small, tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(
        {'model_type': 't5', 'task_specific_params': said}))
    values = cli.parse(['generate', f'--model={tmp_path}', f'--task={task}'], '', command.define,
                       sections=('decode',))
    with pytest.raises(UserError, match=sentence):
        command._for_task(small('seq2seq').config, values)


def test_a_given_output_scores_what_it_scored_when_written(call, trained, tmp_path):
    found = json.loads(call(f'--model={trained}', '--prompt=abdc', '--json', '--num_outputs=2',
                            '--config.decode.alpha=0'))
    pairs = ''.join(f'abdc\t{output["text"]}\n' for output in found['outputs'])
    (tmp_path / 'pairs.tsv').write_text(pairs)
    scored = call(f'--model={trained}', '--score', '--input=pairs.tsv').splitlines()
    for output, line in zip(found['outputs'], scored, strict=True):
        score, source, target = line.split('\t')
        assert (source, target) == ('abdc', output['text'])
        assert float(score) == pytest.approx(output['score'], abs=1e-4)


def test_texts_of_a_language_model_are_scored_token_by_token(call, language_model):
    model = f'--model={language_model}'
    rows = [json.loads(line) for line in call(
        model, '--score', '--json', '--prompt=3+4=7', '--prompt=3+4=', '--prompt=7').splitlines()]
    assert [row['tokens'] for row in rows] == [5, 4, 1]
    greedy = json.loads(call(model, '--prompt=3+4=', GREEDY, '--max_new_tokens=1', '--json',
                             '--config.decode.alpha=0'))['outputs'][0]
    added = json.loads(call(model, '--score', '--json', f'--prompt=3+4={greedy["text"]}'))['log_p']
    assert added - rows[1]['log_p'] == pytest.approx(greedy['score'], abs=1e-4)


REFUSED = {
    'two ways in': ('--prompt=1 --interactive', '--interactive'),
    'cut of a prompt': ('--prompt=1 --cut', '--cut is not for a decoder'),
    'a file and a split': ('--input=x --split=dev', '--input', '--split'),
    'stop with a beam': ('--prompt=1 --stop=x', '--stop', 'decode.beam_size=1'),
    'stream with a beam': ('--prompt=1 --stream', '--stream', 'decode.beam_size=1'),
    'stream of two': (f'--prompt=1 --prompt=2 --stream {GREEDY}', '--stream', 'one --prompt'),
    'stream as JSON': (f'--prompt=1 --stream --json {GREEDY}', '--json', '--stream'),
    'template without target': (f'--prompt=1 --template={{source}} {GREEDY}', '{target}'),
    'examples without template': (f'--prompt=1 --examples=x {GREEDY}', '--template'),
    'missing examples': (f'--prompt=1 --examples=x --template={{source}}{{target}} {GREEDY}', 'x'),
    'draft with a beam': ('--prompt=1 --draft=x', '--draft', 'decode.beam_size=1'),
    'task of another kind': ('--prompt=1 --task=translate', '--task=translate', 'pairs'),
    'missing draft': (f'--prompt=1 --draft=nowhere {GREEDY}', 'nowhere'),
    'size of no draft': ('--prompt=1 --draft_tokens=3', '--draft_tokens', '--draft'),
    'options of scoring': (f'--prompt=1 --score {GREEDY}', '--config.decode.beam_size', '--score'),
    'least beyond the most': (f'--prompt=1 --min_length=30 --max_new_tokens=9 {GREEDY}',
                              'min_length=30', 'max_new_tokens=9'),
    'not UTF-8': ('--prompt=a\udcffb', 'not valid UTF-8'),
    'empty stop': (f'--prompt=1 --stop= {GREEDY}', '--stop is empty'),
    'length twice': ('--prompt=1 --max_length=9 --config.decode.max_length=9', '--max_length'),
    'beam of samples': (f'--prompt=1 --config.decode.strategy=sample {GREEDY}', 'beam_size'),
    'filter of a beam': ('--prompt=1 --config.decode.top_k=3', 'decode.top_k', 'sample'),
    'too many outputs': (f'--prompt=1 --num_outputs=2 {GREEDY}', '--num_outputs=2'),
    'longer than the model': ('--prompt=1 --max_new_tokens=65', 'model.max_length=64'),
    'prompt too long': (f'--prompt={"1" * 65}', '66 tokens', '64'),
    'no room for new tokens': (f'--prompt={"1" * 60} --max_new_tokens=5', '60 tokens', '=5', '64'),
    'empty prompt': ('--prompt=', 'empty'),
    'empty text to score': ('--score --prompt=', 'empty'),
}


@pytest.mark.parametrize('case', REFUSED.values(), ids=REFUSED)
def test_refused(case, call, language_model):
    args, *words = case
    with pytest.raises(UserError) as error:
        call(f'--model={language_model}', *args.split())
    assert all(word in str(error.value) for word in words) and '\n' not in str(error.value)


def test_a_template_is_for_tokenizers_that_keep_the_ends_of_lines():
    def tokenizer(kind):
        return train_tokenizers(DataConfig(tokenizer=kind), [('a b\n',)]).source
    command._check_lines(tokenizer('char'))
    with pytest.raises(UserError, match='--template needs a model that reads the ends of lines'):
        command._check_lines(tokenizer('word'))


def test_drafts_of_another_kind_are_refused(call, language_model, trained):
    with pytest.raises(UserError, match='model.family=seq2seq, the model decoder'):
        call(f'--model={language_model}', '--prompt=1', GREEDY, f'--draft={trained}')


def test_a_limit_that_is_given_takes_the_place_of_the_models_other(call, language_model, tmp_path):
    model = shutil.copytree(language_model, tmp_path / 'limited')
    config = json.loads((model / 'config.json').read_text())
    config['decode'] |= {'max_length': 20, 'beam_size': 1}
    (model / 'config.json').write_text(json.dumps(config))
    assert len(call('--model=limited', '--prompt=1+1=', '--max_new_tokens=2').rstrip('\n')) <= 2
    with pytest.raises(UserError, match='both limit an output'):
        call('--model=limited', '--prompt=1+1=', '--max_new_tokens=2', '--max_length=9')


def test_an_encoder_writes_nothing(call, tmp_path):
    config = override(Config(), {'model.family': 'encoder', 'model.num_decoder_layers': 0,
                                 'data.objective': 'mlm', 'data.train': 'x', 'data.format': 'lines',
                                 'optim.peak_learning_rate': 1.0, 'optim.warmup_steps': 1})
    (tmp_path / 'config.json').write_text(to_json(config))
    with pytest.raises(UserError, match='model.family=encoder, which writes no outputs'):
        call('--model=.', '--prompt=1')


@pytest.mark.parametrize('module, sections', [
    ('train', {field.name for field in dataclasses.fields(Config)}),
    ('evaluate', {'decode'}), ('generate', {'decode'}), ('predict', ()), ('embed', ()),
    ('visualize', ()), ('convert', ())])
def test_help_names_every_flag(module, sections, run, without_jax):
    values = flags.FlagValues()
    importlib.import_module(f'experiments.{module}').define(values)
    wanted = [*values, *(f'config.{name}' for name in leaves() if name.split('.')[0] in sections)]
    wanted += ['config'] * (module == 'train')  # of what all experiments share
    assert len(wanted) > 3
    result = run(module, '--help', env=without_jax)
    assert (result.returncode, result.stderr) == (0, '')
    shown = [line.split()[0] for line in result.stdout.splitlines() if line.startswith('  --')]
    assert set(shown) == {f'--{name}' for name in (*wanted, 'help')}
    assert f'python -m experiments.{module}' in result.stdout
