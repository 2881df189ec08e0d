"""Every option of the schema changes something, and nothing that it shouldn't."""

import dataclasses
import hashlib

import cv2
import numpy as np
import pytest
import torch

from finetune import session
from finetune.assembly import assemble_data, assemble_model, input_spec
from finetune.composition import compose
from finetune.method import build_method, pack_pictures, select_metric
from finetune.selection import patience_epochs
from finetune.training.loop import LoopState, set_rates, steps_per_epoch
from finetune.values import known_keys

BASE = ["data.root={pictures}", "data.labels_file=table.csv", "model.name=resnet10t",
        "model.weights=null", "data.image_size=32", "data.batch_size=8", "data.workers=0",
        "data.label_column=label", "data.test_fraction=0.25", "training.epochs=4"]
ORDERED = ["data.label_kind=ordinal", "data.class_order=c,a,b"]
ONE_OF_TWO = ["data.label_column=two"]
PLACES = ["data.split=spatial", "data.x_column=x", "data.y_column=y", "data.block_size=2"]
NAMED = ["data.split=spatial", "data.block_size=4", r"data.place_from=p(\d+)_(\d+)"]
SITES = ["data.split=site", "data.site_column=site", "data.test_site=s0"]
FOLD = ["data.split=kfold", "data.fold=1"]
PHASES = "freezing.phases=[{epochs:1,depths:head},{epochs:3,depths:all%s}]"

# key: (words besides BASE, words that set the key, parts of the run that differ)
CASES: dict[str, tuple[list[str], list[str], set[str]]] = {
    "recipe": ([], ["recipe=linear_probe"], {"folder", "spec", "batch", "epochs", "plan", "rates"}),
    "seed": ([], ["seed=1"], {"weights", "batch", "logits"}),
    "device": ([], ["device=cpu"], set()),
    "output_dir": ([], ["output_dir={elsewhere}"], {"folder"}),
    "data.root": ([], ["data.root={other}"], {"batch"}),
    "data.format": (["data.root={single}", "data.labels_file=null"], ["data.format=folders"],
                    {"ids", "labels", "split", "batch", "weights", "loss", "logits", "rates"}),
    "data.labels_file": ([], ["data.labels_file=given.csv"],
                         {"ids", "labels", "split", "batch", "rates"}),
    "data.path_column": ([], ["data.path_column=copy"], {"ids", "batch"}),
    "data.label_column": ([], ["data.label_column=two"],
                          {"labels", "split", "batch", "weights", "loss", "logits"}),
    "data.label_separator": (["data.label_column=several"], ["data.label_separator=|"],
                             {"labels", "split", "batch", "weights", "loss", "logits", "metric"}),
    "data.split_column": ([], ["data.split_column=part"], {"split", "batch", "rates"}),
    "data.group_column": ([], ["data.group_column=patient"], {"split", "batch"}),
    "data.group_from": ([], [r"data.group_from=p\d+"], {"split", "batch"}),
    "data.label_kind": ([], ["data.label_kind=ordinal", "data.class_order=c,a,b"],
                        {"labels", "split", "batch", "weights", "logits", "metric"}),
    "data.class_order": (ORDERED, ["data.class_order=a,c,b"], {"labels", "split", "batch"}),
    "data.positive_class": (ONE_OF_TWO, ["data.positive_class=no"], {"labels"}),
    "data.channels": ([], ["data.channels=1"], {"spec", "weights", "batch", "logits"}),
    "data.image_size": ([], ["data.image_size=48"], {"spec", "batch"}),
    "data.resize": ([], ["data.resize=pad"], {"spec", "batch"}),
    "data.transform": ([], ["data.transform=none"], {"batch"}),
    "data.batch_size": ([], ["data.batch_size=4"], {"batch", "rates"}),  # auto: test_fitting.py
    "data.views": ([], ["data.views=2"], {"batch"}),
    "data.workers": ([], ["data.workers=1"], {"workers"}),
    "data.decoding": (["data.root={large}"], ["data.decoding=full"], {"batch"}),
    "data.pack": (["data.root={large}", "training.epochs=2"], ["data.pack=always"],
                  {"batch", "pack"}),
    "data.sampling": ([], ["data.sampling=balanced"], {"batch"}),
    "data.split": ([], ["data.split=group", "data.group_column=patient"], {"split", "batch"}),
    "data.split_seed": ([], ["data.split_seed=1"], {"split", "batch"}),
    "data.x_column": (PLACES, ["data.x_column=day"], {"split", "batch"}),
    "data.y_column": (PLACES, ["data.y_column=day"], {"split", "batch"}),
    "data.place_from": (NAMED, [r"data.place_from=p\d(\d)_\d*(\d)"], {"split", "batch"}),
    "data.block_size": (PLACES, ["data.block_size=3"], {"split", "batch", "rates"}),
    "data.block_buffer": (PLACES, ["data.block_buffer=1.2"], {"split", "batch", "rates"}),
    "data.time_column": (["data.split=time", "data.time_column=day"], ["data.time_column=x"],
                         {"split", "batch"}),
    "data.site_column": (SITES, ["data.site_column=camera"], {"split", "batch"}),
    "data.test_site": (SITES, ["data.test_site=s1"], {"split", "batch"}),
    "data.folds": (FOLD, ["data.folds=3"], {"split", "batch", "rates"}),
    "data.fold": (FOLD, ["data.fold=2"], {"split", "batch"}),
    "data.splits_file": ([], ["data.splits_file=given.csv"],
                         {"ids", "labels", "split", "batch", "rates"}),
    "data.val_fraction": ([], ["data.val_fraction=0.5"], {"split", "batch", "rates"}),
    "data.train_fraction": ([], ["data.train_fraction=0.5"], {"split", "batch", "rates"}),
    "data.test_fraction": ([], ["data.test_fraction=0"], {"split", "batch", "rates"}),
    "model.name": ([], ["model.name=resnet14t"], {"weights", "logits"}),
    "model.weights": ([], ["model.weights={weights}"],
                      {"weights", "spec", "plan", "batch", "logits"}),
    "model.head": ([], ["model.head=mlp"], {"weights", "logits"}),
    "model.pooling": ([], ["model.pooling=max"], {"logits"}),
    "model.drop_rate": ([], ["model.drop_rate=0.5"], {"logits"}),
    "model.drop_path_rate": ([], ["model.drop_path_rate=0.5"], {"logits"}),
    "freezing.policy": ([], ["freezing.policy=head_only"], {"plan"}),
    "freezing.below": (["freezing.policy=below", "freezing.below=layer3"],
                       ["freezing.below=layer2"], {"plan"}),
    "freezing.phases": (["freezing.policy=phases", PHASES % ""], [PHASES % ",lr:1e-5"], {"rates"}),
    "freezing.frozen_fraction": (["freezing.policy=gradual"], ["freezing.frozen_fraction=1"],
                                 {"plan", "rates"}),
    "freezing.norm_statistics": ([], ["freezing.norm_statistics=fixed"], {"plan"}),
    "optimizer.name": ([], ["optimizer.name=lion"], {"optimizer"}),
    "optimizer.lr": ([], ["optimizer.lr=0.5"], {"rates"}),
    "optimizer.weight_decay": ([], ["optimizer.weight_decay=0.5"], {"decay"}),
    "optimizer.decay_towards": (["model.weights={weights}"], ["optimizer.decay_towards=start"],
                                {"decay"}),
    "optimizer.start_decay": (["model.weights={weights}", "optimizer.decay_towards=start"],
                              ["optimizer.start_decay=0.5"], {"decay"}),
    "optimizer.layer_decay": ([], ["optimizer.layer_decay=0.5"], {"rates"}),
    "optimizer.stage_lrs": ([], ["optimizer.stage_lrs={layer2: 0.5}"], {"rates"}),
    "schedule.name": ([], ["schedule.name=linear"], {"rates"}),
    "schedule.warmup_fraction": ([], ["schedule.warmup_fraction=0.5"], {"rates"}),
    "schedule.final_fraction": ([], ["schedule.final_fraction=0.5"], {"rates"}),
    "schedule.step_count": (["schedule.name=step"], ["schedule.step_count=1"], {"rates"}),
    "schedule.step_factor": (["schedule.name=step"], ["schedule.step_factor=0.5"], {"rates"}),
    "schedule.restart": (["freezing.policy=head_then_all"], ["schedule.restart=true"], {"rates"}),
    "training.epochs": ([], ["training.epochs=6"], {"epochs", "plan", "rates"}),
    "training.precision": ([], ["training.precision=bf16"], {"logits"}),
    "training.memory_format": ([], ["training.memory_format=contiguous"], {"layout", "logits"}),
    "training.convolutions": ([], ["training.convolutions=library"], {"kinds", "logits"}),
    "training.head_fit": (["freezing.policy=head_then_all"], ["training.head_fit=exact"],
                          {"plan", "rates"}),
    "training.loss": (["data.views=2"], ["training.loss=contrastive"],
                      {"weights", "logits", "loss"}),
    "training.temperature": (["data.views=2", "training.loss=contrastive"],
                             ["training.temperature=1"], {"loss"}),
    "training.select_metric": ([], ["training.select_metric=macro_f1"], {"metric"}),
    "training.patience_fraction": ([], ["training.patience_fraction=0.5"], {"patience"}),
    "training.label_smoothing": ([], ["training.label_smoothing=0.1"], {"loss"}),
    "training.ordinal": (ORDERED, ["training.ordinal=corn"], {"weights", "logits"}),
    "training.logit_adjustment": ([], ["training.logit_adjustment=1"], {"loss"}),
    "training.class_weights": ([], ["training.class_weights=balanced"], {"loss"}),
    "training.mixup_alpha": ([], ["training.mixup_alpha=0.5"], {"mix"}),
    "training.cutmix_alpha": ([], ["training.cutmix_alpha=0.5"], {"mix"}),
    "training.accumulation_steps": ([], ["training.accumulation_steps=2"], {"steps", "rates"}),
    "training.grad_checkpointing": ([], ["training.grad_checkpointing=true"], {"recomputes"}),
    "training.max_grad_norm": ([], ["training.max_grad_norm=0.5"], {"clipping"}),
    "training.ema_decay": ([], ["training.ema_decay=0.9"], {"average"}),
    "tracking.mode": ([], ["tracking.mode=disabled"], {"tracking"}),
    "tracking.project": ([], ["tracking.project=p"], {"tracking"}),
    "tracking.entity": ([], ["tracking.entity=e"], {"tracking"}),
    "tracking.group": ([], ["tracking.group=g"], {"tracking"}),
    "tracking.job_type": ([], ["tracking.job_type=j"], {"tracking"}),
    "tracking.tags": ([], ["tracking.tags=[a,b]"], {"tracking"}),
    "tracking.notes": ([], ["tracking.notes=n"], {"tracking"}),
    "tracking.pictures": ([], ["tracking.pictures=true"], {"tracking"}),
}
ELSEWHERE = {  # seen best where they act
    **dict.fromkeys((f"decisions.{key}" for key in (
        "calibration", "sensitivity", "specificity", "precision", "best_f1", "costs", "set_level",
        "set_method", "sets_by_class", "sets_randomised", "answered_accuracy", "guarantee")),
        "test_results.py"),
    "data.near_duplicates": "test_likeness.py", "data.measure_test": "test_studies.py",
    "data.shortcuts": "test_shortcut_runs.py", "data.familiarity": "test_familiarity.py",
    "training.compile": "test_compiling.py", "data.unreadable": "test_run.py",
    "training.wise_ft": "test_wise_ft.py",
    "data.duplicates": "test_splits.py",
    "data.waiver": "test_run.py", "data.subgroup_columns": "test_subgroups.py",
    "training.cache_features": "test_frozen.py",
    "training.cache_views": "test_frozen.py", "training.head_strength": "test_frozen.py",
    "training.cache_limit": "test_frozen.py", "data.compare_random": "test_folds.py",
    "tracking.upload_model": "test_tracking.py",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two folders of pictures, 24 x 32 px, each with tables."""
    return {"pictures": fill(tmp_path_factory.mktemp("pictures"), 0),
            "other": fill(tmp_path_factory.mktemp("other"), 1),
            "single": fill(tmp_path_factory.mktemp("single"), 0, tables=1),
            "large": fill(tmp_path_factory.mktemp("large"), 0, size=(160, 200), kind="jpg"),
            "elsewhere": tmp_path_factory.mktemp("elsewhere"),
            "weights": weights_file(tmp_path_factory.mktemp("weights") / "some.pth")}


def fill(folder, seed, tables=2, size=(24, 32), kind="png"):
    random = np.random.default_rng(seed)
    rows = ["path,copy,label,two,several,patient,x,y,day,site,camera,part"]
    for number in range(60):
        label = "aabbc"[number % 5]
        paths = [f"{top}{label}/p{number // 4:02d}_{number}.{kind}" for top in ("", "more/")]
        for path in paths:
            (folder / path).parent.mkdir(exist_ok=True, parents=True)
            cv2.imwrite(str(folder / path), random.integers(0, 255, (*size, 3), np.uint8))
        rows.append(f"{paths[0]},{paths[1]},{label},{('no', 'yes')[number % 2]},"
                    f"{label}|{'ab'[number // 3 % 2]},p{number // 4:02d},{number // 6},"
                    f"{number % 6},{number * 7 % 60},s{number // 5 % 4},s{number % 3},"
                    f"{('train', 'train', 'val', 'test')[number // 5 % 4]}")
    (folder / "table.csv").write_text("\n".join(rows))
    given = ["path,label,split"] + [f"{r.split(',')[0]},{r.split(',')[2]},{r.split(',')[-1]}"
                                    for r in rows[1:-1]]
    if tables == 2:
        (folder / "given.csv").write_text("\n".join(given))
    return folder


def weights_file(path):
    import timm

    torch.manual_seed(5)
    torch.save(timm.create_model("resnet10t", num_classes=3).state_dict(), path)
    return path


def digest(*tensors):
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(np.ascontiguousarray(tensor.detach().float().numpy()).tobytes())
    return found.hexdigest()[:12]


def observe(words, monkeypatch):
    """What a run with these words would do, part by part."""
    config = compose(words).config
    data = assemble_data(config, config.data.root)
    spec_labels = data.samples.label_spec
    torch.manual_seed(config.seed)
    model, weights = assemble_model(config, class_names=spec_labels.class_names,
                                    channels=data.channels)
    spec = input_spec(config, data, model, weights)
    source, told = pack_pictures(config, data, spec)
    method = build_method(config, model, data, spec, session.choose_device(config.device.value),
                          source)
    seen = {"pack": len(told), "labels": repr((spec_labels, data.samples.labels.tolist())),
            "ids": data.samples.ids, "split": data.split.names.tolist(), "spec": spec,
            "weights": digest(*model.state_dict().values()), "epochs": config.training.epochs,
            "metric": select_metric(config, spec_labels), "clipping": method.settings.max_grad_norm,
            "patience": patience_epochs(config.training.patience_fraction, config.training.epochs),
            "steps": method.settings.accumulation_steps, "average": method.average is None,
            "optimizer": type(method.optimizer), "workers": method.loaders["train"].num_workers,
            "recomputes": method.model.grad_checkpointing,
            "kinds": type(method.model.conv1[0]).__name__,
            "layout": method.lay_out(torch.empty(2, 3, 8, 8)).stride(),
            "decay": [(g.weight_decay, g.towards_start) for g in method.groups],
            **plans(method, config)}
    return seen | passes(method, len(spec_labels.class_names)) | outside(config, monkeypatch)


def plans(method, config):
    found, state, rates = [], LoopState(), []
    for epoch in range(config.training.epochs):
        plan = method.plan(state.history)
        opened = sorted(plan.depths - set(found[-1].depths if found else ()))
        state.opened_at |= {d: state.step for d in opened}
        if plan.phase != state.phase:
            state.phase, state.phase_start = plan.phase, state.step
        steps = steps_per_epoch(method.loaders["train"], method.settings)
        for _ in range(steps):
            set_rates(method.optimizer, plan, method.settings, state, steps)
            rates.append([g["lr"] for g in method.optimizer.param_groups])
            state.step += 1
        found.append(plan)
        state.history.append({"trainable_depths": sorted(plan.depths), "epoch": epoch + 1})
    return {"plan": [(sorted(p.depths), p.update_norms) for p in found], "rates": rates}


def passes(method, classes):
    torch.manual_seed(3)
    images, targets, _ = next(iter(method.loaders["train"]))
    torch.manual_seed(3)
    noise = torch.randn(4, method.model.conv1[0].in_channels, 64, 64)
    for parameter in method.model.parameters():
        if not parameter.any():  # a residual branch that begins at nothing hides what it does
            torch.nn.init.ones_(parameter)
    method.model.train()
    with method.settings.autocast(), torch.no_grad():
        logits = method.model(noise)
    width = classes if isinstance(method.criterion, torch.nn.CrossEntropyLoss) else logits.shape[1]
    fixed = torch.linspace(-1, 1, 4 * width).sin().view(4, width)
    truth = torch.arange(4) % classes if targets.ndim == 1 else targets[:4]
    return {"batch": digest(images), "logits": digest(logits),
            "loss": float(method.criterion(fixed, truth)),
            "mix": None if method.mix is None else method.mix.__closure__ is not None}


def outside(config, monkeypatch):
    told = {}
    with monkeypatch.context() as patch:
        patch.setattr(session, "start_tracking",
                      lambda folder, **given: told.update(given) or session.Tracker())
        run = session.start_run(dataclasses.replace(config, output_dir=config.output_dir))
        session.open_tracker(run, config, is_rehearsal=False)
    told = {k: v for k, v in told.items() if k not in ("name", "salt", "config")}
    return {"folder": str(run.path).rsplit("-", 3)[0], "tracking": repr(told)}


def test_every_key_has_its_case():
    assert set(CASES) | set(ELSEWHERE) == set(known_keys())


@pytest.mark.parametrize("key", CASES)
def test_an_option_changes_what_it_should_and_nothing_else(key, places, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    more, change, expected = CASES[key]
    before = observe(filled([*BASE, *more], places), monkeypatch)
    after = observe(filled([*BASE, *more, *change], places), monkeypatch)
    assert {part for part in before if before[part] != after[part]} == expected


def filled(words, places):
    """The words with folders put in; of several for one key, the last."""
    values = dict(w.split("=", 1) for w in words)
    for key in ("data.root", "output_dir", "model.weights"):
        if key in values:
            values[key] = values[key].format(**places)
    return [f"{k}={v}" for k, v in values.items()]
