"""The training loop: a run is a pure function of (configuration, seed, data fingerprint)."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np

from xformer.compiled import Compilations
from xformer.config import (
    CHOOSING,
    LABELLED,
    Config,
    Ending,
    TrainConfig,
    UserError,
    is_labelled,
    measure_of,
    override,
)
from xformer.console import say
from xformer.data.layouts import highest_id
from xformer.data.objectives import make_objective, real_tokens
from xformer.data.pipeline import Corpus, prefetch, prepare
from xformer.data.plan import BatchPlan, make_plan, sequential_batches
from xformer.models import build
from xformer.train.checkpoint import Checkpoints
from xformer.train.distil import Teacher, check_teacher, make_teach
from xformer.train.flops import peak_flops, update_flops
from xformer.train.folder import check_folder, create_folder, only_writer
from xformer.train.parallel import Parallel
from xformer.train.signals import Stopped, interruptible
from xformer.train.start import Start, merged
from xformer.train.step import Steps, TrainState, make_steps
from xformer.train.tasks import task_of, total_summary
from xformer.train.telemetry import Telemetry, Trace, read_rows


class NotFinite(Ending):
    """The loss or the gradients stopped being finite; the last good state is saved."""

    exit_code = 3


def train(config: Config, folder: Path, start: Start | None = None,
          teacher: Teacher | None = None, profile: bool = False) -> TrainState:
    """Train to config.train.steps in `folder`, from its newest checkpoint if it has one, or else
    from `start`; with what `teacher` says of every batch. With `profile`, a trace of some steps
    is written beside.

    Raises UserError, NotFinite or Stopped; whichever it is, nothing that was saved is lost.
    """
    given = config
    check_folder(folder, given)
    parallel = Parallel(config)
    with interruptible() as interrupt:
        begun = start or teacher
        corpus = prepare(config, say, begun and begun.tokenizers)
        config = resolve(config, corpus)
        if start and is_labelled(config):
            start = start.for_head(config.data.objective, corpus.tokenizers.labels)
        if teacher:
            check_teacher(teacher, config, corpus.tokenizers)
        learn, dev = (make_objective(config, corpus.stores[split], corpus.tokenizers)
                      for split in ('train', 'dev'))
        plan = make_plan(learn, corpus.fingerprint, config.data, config.train.seed)
        dev_plan = list(sequential_batches(dev, config.data))
        parallel.check_rows([*plan.shapes, *(shape for shape, _ in dev_plan)])
        steps = make_steps(config, build(config))

        def make_batch(i: int):
            k, examples = plan.batch(i)
            return learn.batch(examples, plan.shapes[k], plan.random(i))

        def dev_batches():
            for i, (shape, examples) in enumerate(dev_plan):
                yield dev.batch(examples, shape, plan.random(i))  # the same noise every time

        if config.train.best_by != TrainConfig().best_by:
            _check_best_by(config, steps, next(dev_batches()))
        with only_writer(folder):
            check_folder(folder, given)  # again: another process may have made it meanwhile
            create_folder(folder, config, corpus, parallel.describe(), {
                'init_from': start and start.origin, 'teacher': teacher and teacher.origin})
            training = Training(config, folder, steps, parallel, start, teacher, profile)
            training.telemetry.say(_opening(corpus, len(learn), plan, training))
            try:
                training.run(make_batch, dev_batches, interrupt)
            finally:
                training.close()
        return training.state


def resolve(config: Config, corpus: Corpus) -> Config:
    """The configuration with the vocabulary size, special tokens and number of labels of the
    tokenizers, where it gives none."""
    size = corpus.tokenizers.vocab_size
    if 0 < config.model.vocab_size < size and (
            highest := _highest_id(config, corpus)) >= config.model.vocab_size:
        raise UserError(f'model.vocab_size={config.model.vocab_size} is too few for the data, '
                        f'which have token {highest} of the {size} of the tokenizer; leave it at '
                        '0 to take that')
    chooses = config.data.objective in CHOOSING
    labels = len(corpus.tokenizers.labels) if chooses else 0
    if config.model.num_labels not in (0, labels):
        raise UserError(f'model.num_labels={config.model.num_labels} is not the {labels} '
                        'labels of the data; leave it at 0 to take that')
    special = corpus.tokenizers.special
    ids = {name: getattr(special, name.removesuffix('_id'))
           for name in ('pad_id', 'bos_id', 'eos_id') if getattr(config.model, name) < 0}
    return override(config, {'model.vocab_size': config.model.vocab_size or size,
                             'model.num_labels': config.model.num_labels or labels,
                             **{f'model.{name}': value for name, value in ids.items()}})


def _highest_id(config: Config, corpus: Corpus) -> int:
    """That training may meet: some tokenizers, as BART's of summaries, have tokens that their
    models have no place for, and no text has."""
    special = corpus.tokenizers.special
    if config.data.objective not in ('pairs', 'lm', *LABELLED):  # most make tokens of their own
        return corpus.tokenizers.vocab_size - 1
    return max(special.pad, special.bos, special.eos,
               *(highest_id(store, config) for store in corpus.stores.values()))


def _check_best_by(config: Config, steps: Steps, batch: dict[str, np.ndarray]) -> None:
    """Raises UserError where the dev split is not measured by that. Nothing is computed."""
    sums = jax.eval_shape(steps.evaluate, jax.eval_shape(steps.init).params, batch)
    scores = total_summary([jax.tree.map(lambda leaf: np.ones(leaf.shape), sums)],
                           task_of(config).scores)
    if measure_of(config.train.best_by)[0] not in (names := [f'dev/{name}' for name in scores]):
        raise UserError(f'train.best_by={config.train.best_by} is not measured here; choose one of '
                        f'{", ".join(names)}')


class Training:
    """The state of a run and the functions that change it."""

    def __init__(self, config: Config, folder: Path, steps: Steps, parallel: Parallel,
                 start: Start | None, teacher: Teacher | None, profile: bool):
        self.config, self.parallel = config, parallel
        self.checkpoints = Checkpoints(folder / 'checkpoints', config.train.keep_last,
                                       config.train.keep_best, say, config.train.best_by)
        self.compilations = Compilations()
        init, self.train_step, self.evaluate_step = (
            self.compilations.wrap(name, jitted) for name, jitted in zip(
                ('init', 'train_step', 'evaluate'), parallel.compile(steps)))
        self.place = parallel.place
        if teacher:
            teach = self.compilations.wrap('teach', parallel.compile_on_batches(
                make_teach(config, teacher.model)))
            taught_by = jax.device_put(teacher.params, parallel.replicated)
            self.place = lambda batch: teach(taught_by, parallel.place(batch))

        shapes = jax.eval_shape(steps.init)
        restored = self.checkpoints.restore(_fields(jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=parallel.replicated),
            shapes)))
        self.state = TrainState(**restored[1]) if restored else init()
        if start and not restored:
            params, table = merged(self.state.params, start.params)
            self.state = self.state.replace(params=params)
            say(_loaded(table, start))
        self.start = int(self.state.step)
        peak = peak_flops(parallel.describe()['kind'], config.model.dtype)
        self.telemetry = Telemetry(folder, self.start, config.train.steps, self.compilations,
                                   peak and peak * parallel.num_devices)
        self.trace = Trace(folder / 'profile', self.start, config.train.steps) if profile else None
        self.best_by, self.sign = measure_of(config.train.best_by)
        self.scores = [row[self.best_by] for row in read_rows(folder / 'metrics.jsonl')
                       if self.best_by in row]

    def run(self, make_batch, dev_batches, interrupt) -> None:
        """Train from the state's step to the last one.

        The metrics of a step are read only after the next one has been dispatched, so that the
        device never waits for the host.
        """
        train, log = self.config.train, self.telemetry
        pending = None  # (step, metrics) of the newest update, still on the device
        steps = self.start if self.out_of_patience() else train.steps  # done, if it was before
        for i, (batch, waited) in enumerate(prefetch(make_batch, self.start, steps),
                                            start=self.start):
            if self.trace:
                self.trace.before(i, self.state)
            self.state, metrics = self.train_step(self.state, self.place(batch), np.int32(i))
            if pending:
                self._settle(*pending)
            log.spent('data_wait', waited)
            log.saw(real_tokens(batch), update_flops(self.config, batch))
            step, pending = i + 1, (i + 1, metrics)
            last = step == train.steps
            evaluate = last or step % train.eval_every == 0
            stop = interrupt.requested  # read once: what comes from here on waits for a step
            save = last or step % train.save_every == 0
            if evaluate or save or stop or i == self.start:  # the first before others compile
                self._settle(step, metrics, dev_batches() if evaluate else None, save, bool(stop))
                pending = None
            if evaluate and self.out_of_patience():
                break
            if stop and not last:
                self.checkpoints.wait()
                raise Stopped(f'stopped by {stop} and saved at step {step:,}')
        if self.out_of_patience():
            log.say(f'stopped early: {self.best_by} has not become better for '
                    f'{train.patience} evaluations')

    def out_of_patience(self) -> bool:
        """Whether the last train.patience evaluations brought nothing better."""
        return 0 < self.config.train.patience <= self._since_best()

    def _since_best(self) -> int:
        """Evaluations after the best one."""
        values = [self.sign * x if math.isfinite(x) else math.inf for x in self.scores]
        best = min(range(len(values)), key=values.__getitem__, default=0)
        return max(len(values) - 1 - best, 0)

    def _settle(self, step: int, metrics, dev=None, save: bool = False,
                stop: bool = False) -> None:
        """Read the metrics of an update, check, evaluate, log and save as is due, or to stop."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not (math.isfinite(values['loss']) and math.isfinite(values['grad_norm'])):
            self._refuse(step, values)
        scores = {}
        if dev is not None:
            with self.telemetry.timed('evaluate'):
                scores = self._evaluate(dev)
        if dev is not None or step % self.config.train.log_every == 0:
            self.telemetry.row(step, values | scores)
        if dev is not None and self.config.train.patience:  # what it waits for is to be kept
            save = save or self._since_best() == 0 or self.out_of_patience()
        if save or stop:
            self._save(step, scores, passing=not save)

    def _refuse(self, step: int, values: dict[str, float]) -> None:
        kept = int(self.state.step)
        self.checkpoints.wait()  # for the one that may be under way
        if kept not in self.checkpoints.steps():
            self._save(kept, {})
        self.checkpoints.wait()
        raise NotFinite(
            f'update {step:,} was not finite (loss {values["loss"]}, gradient norm '
            f'{values["grad_norm"]}); the state before it is saved at step {kept:,}. Lower '
            'optim.peak_learning_rate, set optim.clip_norm or more warm-up, in a new --workdir')

    def _evaluate(self, dev) -> dict[str, float]:
        """Loss, nll and accuracy over the whole dev split."""
        parts = [self.evaluate_step(self.state.params, self.parallel.place(batch))
                 for batch in dev]
        scores = total_summary(parts, task_of(self.config).scores)
        scores = {f'dev/{name}': value for name, value in scores.items()}
        self.scores.append(scores[self.best_by])
        return scores

    def _save(self, step: int, scores: dict[str, float], passing: bool = False) -> None:
        with self.telemetry.timed('checkpoint'):
            self.checkpoints.save(step, _fields(self.state), scores, passing)

    def close(self) -> None:
        try:
            if self.trace:
                self.trace.close()
            self.checkpoints.wait()
        finally:
            self.telemetry.close()


def _fields(state: TrainState) -> dict:
    """The state as the plain dict that a checkpoint holds."""
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _loaded(table: list[tuple[str, str, int]], start: Start) -> str:
    """What of the start was loaded, what is new and what was left, a line each."""
    lines = [f'  {what:<7} {path:<32} {count:>14,}' for what, path, count in sorted(table)]
    begins = f'parameters of {start.origin["run"]}, {start.origin["checkpoint"]}:'
    return '\n'.join([begins, *lines])


def _opening(corpus: Corpus, examples: int, plan: BatchPlan, training: Training) -> str:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(training.state.params))
    devices = training.parallel.describe()
    going_on = f', going on from step {training.start:,}' if training.start else ''
    return (f'{examples:,} examples, {corpus.tokenizers.vocab_size:,} tokens in '
            f'the vocabulary, {parameters:,} parameters; {training.config.train.steps:,} steps '
            f'({plan.num_batches:,} an epoch, {len(plan.shapes)} shapes, {plan.fill:.1%} real '
            f'tokens) on {devices["count"]} × {devices["kind"]}{going_on}')
