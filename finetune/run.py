"""One training run, from a configuration to a report: the composition root.

`fit` reads like the method section of a paper. Everything it calls takes plain values.
"""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune import session
from finetune.assembly import (
    Data,
    assemble_data,
    assemble_model,
    check_forward,
    domain_of,
    input_spec,
)
from finetune.config import Config
from finetune.console import EpochLine, progress_bar, say, warn
from finetune.data.samples import PictureSource
from finetune.data.splits import write_splits
from finetune.devices import compute_exactly
from finetune.environment import (
    describe_environment,
    differences_to_now,
    refuse_other_data,
    without_weights,
)
from finetune.errors import CheckError, DataError, InputError
from finetune.evaluation.decisions import Decisions
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.subgroups import choose_columns
from finetune.explaining import heat_maps
from finetune.familiar import LearnedFeatures, far_warnings, keep_familiarity, learn_features
from finetune.fastest import settle_arithmetic
from finetune.files import write_json
from finetune.fitting import settle_batch_size
from finetune.frozen import FrozenPart
from finetune.interruption import Interruption, interruption
from finetune.likeness import write_likeness_sheet
from finetune.looks import note_look
from finetune.method import (
    Method,
    build_method,
    last_opening,
    pack_pictures,
    predict_part,
    select_metric,
    validate,
)
from finetune.models.freezing import frozen_hash
from finetune.models.grad_cam import NoSpatialMap
from finetune.report.figures import write_figures
from finetune.report.heat_maps import write_heat_maps
from finetune.report.html import write_report
from finetune.results import check_wishes, decide, for_selection, measure_answers
from finetune.run_directory import RunDirectory
from finetune.selection import best_epoch, is_exhausted, patience_epochs
from finetune.shortcuts import gain_warnings, weigh_cues
from finetune.specs import InputSpec
from finetune.starting import decay_to_start, keep_start, keep_start_classifier
from finetune.training.checkpoints import (
    load_checkpoint,
    load_weights,
    read_metadata,
    save_checkpoint,
    save_weights,
)
from finetune.training.loop import LoopState, train
from finetune.training.tracking import Tracker
from finetune.wise_ft import mix_with_start

__all__ = ["evaluate", "fit", "picture_reader", "resume", "rewrite_report"]


def fit(config: Config, *, replaced: dict[str, tuple[Any, Any]] | None = None,
        overrides: Sequence[str] = (), run: RunDirectory | None = None,
        start: Callable[[Config], RunDirectory] | None = None) -> RunDirectory:
    """Train, choose on validation, measure once on test, report.

    Args:
        config: Checked values.
        replaced: In a rehearsal, what it replaced.
        overrides: The words typed, for the report.
        run: A run to continue; its environment says what to restore.
        start: Makes the folder of a new run; None: a new one in ``output_dir``.

    Raises:
        InputError: Something given is wrong; no run was made.
        Interrupted: By a signal; the run can be resumed.
    """
    with interruption(run) as signals:
        session.refuse_several_processes()
        session.announce(config, replaced)
        before = run.environment if run is not None else None
        device = session.choose_device(config.device.value)
        session.set_up_process(before)
        compute_exactly(device)

        # Data: read every picture once, divide, check.
        start = start or session.start_run
        signals.run = run or (start(config) if replaced is not None else None)
        data = _read_data(config, signals.run, with_cues=True)
        refuse_other_data(data, before)
        spec_labels = data.samples.label_spec
        metric = select_metric(config, spec_labels)
        check_wishes(config, spec_labels)

        # Model: the same weights for the same seed, whatever was drawn before.
        torch.manual_seed(config.seed)
        origin = config if before is None else without_weights(config)
        model, weights = assemble_model(origin, class_names=spec_labels.class_names,
                                        channels=data.channels)
        spec = (InputSpec.from_dict(before["input_spec"]) if before
                else input_spec(config, data, model, weights))
        check_forward(config, model, spec, len(spec_labels.class_names))
        model.to(device)

        given: dict[str, Any] = {"model": model, "spec": spec, "device": device, "say": say,
                                 "pictures": len(data.part("train"))}
        config = settle_batch_size(settle_arithmetic(config, **given), **given)

        # Method: depths decide what trains when, and how fast.
        source = _packed(config, data, spec)
        method = build_method(config, model, data, spec, device, source)
        if before is None:
            run = signals.run = signals.run or start(config)
            run.write_config(session.with_whole_paths(config))
            write_splits(run.path / "splits.csv", data.samples, data.split, data.file_hashes)
            keep_start(run, config, model)
            run.write_environment(describe_environment(
                config, data, spec, weights, method.groups, model, device=str(device),
                replaced=replaced, overrides=overrides))
            _show_data(run, method, data, spec)
            save_checkpoint(run.last_checkpoint, model=model, optimizer=method.optimizer,
                            state=LoopState(), average=method.average)
        assert run is not None
        state = load_checkpoint(run.last_checkpoint, model=model, optimizer=method.optimizer,
                                average=method.average)
        run.write_history(state.history)
        patience = patience_epochs(config.training.patience_fraction, config.training.epochs)
        exhausted = functools.partial(
            is_exhausted, metric=metric, patience=patience,
            last_opening=last_opening(method.plan, config.training.epochs))
        tracker = session.open_tracker(run, config, is_rehearsal=replaced is not None)
        say(f"run {run.path}")

        # Training: everything but the arithmetic of an epoch is the body of this loop.
        frozen = FrozenPart(method, config, data, spec, say=say, watched=signals.watched,
                            own=str(run.path))
        measure = functools.partial(validate, method, data, watched=signals.watched,
                                    cached=frozen.predict_val,
                                    chosen_by=functools.partial(for_selection, config))
        signals.patient = True
        with EpochLine(config.training.epochs) as line, session.failing_tracker(tracker):
            epochs = train(
                model, optimizer=method.optimizer, criterion=method.criterion, plan=method.plan,
                begin=frozen.begin, evaluate=measure, settings=method.settings, state=state,
                mix=method.mix, after_step=functools.partial(method.update_average, state),
                before_step=decay_to_start(run, config, method),
                stop=signals.requested, progress=line.batch,
                name_samples=functools.partial(session.names_of, data))
            for result in (() if exhausted(state.history) else epochs):
                if frozen_hash(model, result.trainable_depths) != frozen.frozen:
                    raise CheckError(f"a frozen parameter or buffer moved in epoch {result.epoch}")
                chosen = best_epoch(state.history, metric) == len(state.history) - 1
                state.history[-1]["selected"] = chosen
                if chosen:
                    save_weights(run.best_weights, method.chosen_model, metadata={
                        "model": config.model.name, "epoch": str(result.epoch)})
                keep_start_classifier(run, config, model, result.fit)
                save_checkpoint(run.last_checkpoint, model=model, optimizer=method.optimizer,
                                state=state, average=method.average)
                run.write_history(state.history)
                tracker.log_epoch(session.flat_scalars(state.history[-1]), result.epoch)
                line.epoch(state.history[-1], metric, result.val.get(metric), chosen=chosen)
                if exhausted(state.history):
                    say(f"stopped: no gain in {patience} epochs")
                    break
                signals.check(f"after epoch {result.epoch}")
            _finish(run, config, method, data, state, metric, tracker, signals)
        return run


def _read_data(config: Config, run: RunDirectory | None, *, with_cues: bool = False) -> Data:
    root = config.data.root
    if root is None:
        from finetune.data.sample_data import generate_samples

        assert run is not None
        root = str(run.path / "pictures")
        if not Path(root, "samples.csv").exists():  # written last
            generate_samples(domain_of(config), Path(root), seed=config.data.split_seed)
    with progress_bar("reading and comparing pictures", total=0) as done:
        data = assemble_data(config, root, progress=done, with_cues=with_cues,
                             comparing=lambda count, _: done(count))
    for text in [*data.warnings, *data.split.repairs]:
        warn(text)
    return data


def _packed(config: Config, data: Data, spec: InputSpec) -> PictureSource:
    with progress_bar("packing pictures", total=0) as done:
        source, told = pack_pictures(config, data, spec, progress=done)
    for text in told:
        say(text)
    return source


def _show_data(run: RunDirectory, method: Method, data: Data, spec: InputSpec) -> None:
    """Draw what the network will see, and what looks alike in different parts."""
    session.write_batch_figures(run, method.loaders, spec, data.samples.label_spec, data)
    write_likeness_sheet(data.likeness, data.split.names.tolist(), data.samples,
                         run.path / "figures")


def _measure(run: RunDirectory, method: Method, data: Data,
             signals: Interruption, learned: LearnedFeatures, *,
             looks: bool) -> dict[str, Predictions]:
    """The chosen weights' answers on validation and, if one looks at it, on test; stored."""
    answers: dict[str, Predictions] = {}
    for part in [p for p in data.parts if p == "val" or (p == "test" and looks)]:
        answers[part] = predict_part(method, data, part, final=True, watched=signals.watched,
                                     wrap=learned.watching(part))
        answers[part].save(run.predictions_path(part))
    return answers


def _keep(run: RunDirectory, decisions: Decisions, method: Method,
          metadata: dict[str, str]) -> None:
    """Decisions beside the weights, and inside their file."""
    values = decisions.to_dict()
    write_json(run.path / "decisions.json", values)
    save_weights(run.best_weights, method.chosen_model, metadata={
        **metadata, "decisions": json.dumps(values, sort_keys=True)})


def _finish(run: RunDirectory, config: Config, method: Method, data: Data,
            state: LoopState, metric: str, tracker: Tracker, signals: Interruption) -> None:
    best = best_epoch(state.history, metric)
    told = {"model": config.model.name, "epoch": str(best + 1)}
    mixed = mix_with_start(run, config, method, data, metric, told=told, watched=signals.watched)
    load_weights(run.best_weights, method.chosen_model)
    learned = learn_features(method, data, wanted=config.data.familiarity,
                             watched=signals.watched)
    answers = _measure(run, method, data, signals, learned, looks=config.data.measure_test)
    reported = data.part(part := "test" if "test" in answers else "val")
    metrics = measure_answers(answers, choose_columns(reported.metadata,
                                                      config.data.subgroup_columns))
    metrics["shortcuts"] = weigh_cues(data.cues, metrics[part])
    decisions, metrics["decisions"] = decide(config, answers)
    metrics["selection"] = {"metric": metric, "epoch": best + 1,
                            "pictures": len(for_selection(config, answers["val"])),
                            "value": state.history[best]["val"].get(metric)}
    metrics |= mixed | keep_familiarity(run, learned, data)
    if decisions is not None:
        _keep(run, decisions, method, read_metadata(run.best_weights))
    write_json(run.path / "metrics.json", metrics)
    if "test" in answers:
        note_look(run)
    for each, predictions in answers.items():  # the result is safe by now
        tracker.log_results(each, metrics[each])
        if config.tracking.pictures:
            session.track_mistakes(tracker, data, predictions, each)
    tracker.log_best(session.flat_scalars(state.history[best]))
    if config.tracking.upload_model:
        tracker.log_model(run.best_weights)
    signals.check("before the report")
    warnings = [*gain_warnings(metrics["shortcuts"], metrics[part], part),
                *far_warnings(metrics), *write_figures(run.path)]
    for text in warnings:
        warn(text)
    environment = run.environment
    environment["warnings"] = list(dict.fromkeys([*environment["warnings"], *tracker.warnings,
                                                  *warnings]))
    run.write_environment(environment)
    _explain(run, method, data, answers)
    signals.check("before the report")
    report = write_report(run.path, picture_reader(data.samples.source))
    session.print_result(metrics, has_test="test" in data.parts)
    session.print_decisions(decisions)
    say(f"report {report}")


def _explain(run: RunDirectory, method: Method, data: Data,
             answers: dict[str, Predictions]) -> None:
    """Heat maps for what the report shows, where the network has a last feature map."""
    part = "test" if "test" in answers else "val"
    try:
        write_heat_maps(run.path, heat_maps(method, data, part, answers[part]))
    except NoSpatialMap as error:
        say(f"no heat maps: {error}")


def resume(run: RunDirectory) -> RunDirectory:
    """Continue an interrupted run as if it had not stopped.

    Raises:
        InputError: The run has no checkpoint yet, or its data changed.
    """
    if not run.last_checkpoint.exists():
        raise InputError(f"{run.path} has no checkpoint: it was stopped before training; start "
                         "it again")
    root = run.config.data.root
    if root is not None and not Path(root).exists():
        raise InputError(f"the pictures of this run are gone: {root} does not exist. If they were "
                         f"moved, write their new place into {run.path / 'config.yaml'}, data.root")
    for text in differences_to_now(run.whole_environment):
        warn(text)
    rehearsal = run.environment["rehearsal"]
    replaced = None if rehearsal is None else {k: tuple(v) for k, v in
                                               rehearsal["replaced"].items()}
    return fit(run.config, replaced=replaced, run=run)


def evaluate(run: RunDirectory, *, part: str | None = None) -> Predictions:
    """Predict a part with the chosen weights again and compare with what the run stored.

    Raises:
        CheckError: The logits differ by more than 1e-3.
        InputError: The run isn't finished, or its data changed.
    """
    if not run.best_weights.exists():
        raise InputError(f"{run.path} has no chosen weights yet: "
                         f"python -m finetune resume {run.path}")
    config, before = run.config, run.whole_environment
    device = session.choose_device(config.device.value)
    session.set_up_process(before)
    compute_exactly(device)
    data = _read_data(config, run)
    refuse_other_data(data, before)
    model, _ = assemble_model(without_weights(config), channels=data.channels,
                              class_names=data.samples.label_spec.class_names)
    method = build_method(config, model.to(device), data,
                                InputSpec.from_dict(before["input_spec"]), device)
    load_weights(run.best_weights, method.chosen_model)
    has_looked = "test" in data.parts and config.data.measure_test
    chosen = part or ("test" if has_looked else "val")
    if chosen not in data.parts:
        raise InputError(f"this run has no {chosen} part; it has {', '.join(data.parts)}")
    predictions = predict_part(method, data, chosen, final=True)
    if chosen == "test":
        note_look(run)
    session.print_result(measure_answers({chosen: predictions}), has_test="test" in data.parts)
    session.compare_with_stored(run.predictions_path(chosen), predictions)
    return predictions


def picture_reader(source: PictureSource) -> Callable[[str], np.ndarray]:
    """Gives pictures for a report, by their ids; no larger than they are shown there."""
    return functools.partial(session.picture_for_report, source, at_least=(256, 256))


def rewrite_report(run: RunDirectory) -> Path:
    """Write figures and report again from the run directory.

    Raises:
        InputError: The run isn't finished.
    """
    if not (run.path / "metrics.json").exists():
        raise InputError(f"{run.path} has no metrics yet: python -m finetune resume {run.path}")
    for text in write_figures(run.path):
        warn(text)
    try:
        data = _read_data(run.config, run)
        reader = picture_reader(data.samples.source)
    except DataError as error:
        warn(f"the report has no pictures: {error}")
        return write_report(run.path)
    return write_report(run.path, reader)
