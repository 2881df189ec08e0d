"""The configuration: every key, its type, default, unit and range.

These dataclasses are Hydra's schema. Only cli, api, assembly, plan and run see them; everything
below takes plain values. ``None`` means "not set".
"""

from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum

from finetune.specs import Decoding, LabelKind, OrdinalLink, Resize

__all__ = ["CacheFeatures", "CalibrationKind", "ClassWeights", "Config", "DataConfig",
           "DataFormat", "DecayTarget", "DecisionsConfig", "Device", "Duplicates", "FreezingConfig",
           "FreezingPolicy", "Head", "Loss", "MemoryFormat", "ModelConfig", "NearDuplicates",
           "NormStatistics",
           "OptimizerConfig", "Pack", "Phase", "Precision", "Sampling", "Schedule",
           "ScheduleConfig", "SetMethod", "Shortcuts", "SplitChoice", "TrackingConfig",
           "TrackingMode",
           "TrainingConfig", "Unreadable", "text_fields"]


class DataFormat(StrEnum):
    """How pictures and labels are stored."""

    auto = "auto"
    folders = "folders"
    csv = "csv"
    npz = "npz"


class SplitChoice(StrEnum):
    """How pictures are divided."""

    provided = "provided"
    stratified = "stratified"
    group = "group"
    spatial = "spatial"
    time = "time"
    site = "site"
    kfold = "kfold"


class Unreadable(StrEnum):
    """What broken pictures do."""

    fail = "fail"
    skip = "skip"


class Duplicates(StrEnum):
    """What identical pictures, groups, or near places across the parts of a split do."""

    refuse = "refuse"
    drop_from_train = "drop_from_train"
    regroup = "regroup"
    allow = "allow"


class NearDuplicates(StrEnum):
    """What pictures that are copies of each other, changed a little, count as."""

    guard = "guard"
    warn = "warn"
    ignore = "ignore"


class Shortcuts(StrEnum):
    """What is done about labels that can be told without looking at content."""

    warn = "warn"
    ignore = "ignore"


class Sampling(StrEnum):
    """In which frequency classes are drawn in training."""

    shuffled = "shuffled"
    balanced = "balanced"


class Pack(StrEnum):
    """Whether training's pictures are kept shrunk in one file."""

    auto = "auto"
    always = "always"
    never = "never"


class Head(StrEnum):
    """The new classifier."""

    linear = "linear"
    mlp = "mlp"


class FreezingPolicy(StrEnum):
    """Which depths train when."""

    none = "none"
    head_only = "head_only"
    head_then_all = "head_then_all"
    gradual = "gradual"
    below = "below"
    phases = "phases"
    auto_rgn = "auto_rgn"


class DecayTarget(StrEnum):
    """Towards what weight decay pulls what lies below the classifier."""

    zero = "zero"
    start = "start"


class NormStatistics(StrEnum):
    """Whether running statistics of norms move in depths that train."""

    fixed = "fixed"
    update = "update"


class Schedule(StrEnum):
    """Course of the learning rate."""

    cosine = "cosine"
    one_cycle = "one_cycle"
    linear = "linear"
    step = "step"
    constant = "constant"


class Loss(StrEnum):
    """What training makes small."""

    labels = "labels"
    contrastive = "contrastive"


class CacheFeatures(StrEnum):
    """Whether what the frozen part answers is kept."""

    auto = "auto"
    always = "always"
    never = "never"


class HeadFitting(StrEnum):
    """How a classifier is trained while nothing else is."""

    sgd = "sgd"
    exact = "exact"


class ClassWeights(StrEnum):
    """Weights of classes in the loss."""

    none = "none"
    balanced = "balanced"
    effective_number = "effective_number"


class Precision(StrEnum):
    """Arithmetic of the forward pass."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    bf16_mixed = "bf16_mixed"


class MemoryFormat(StrEnum):
    """Order of a picture's numbers in memory."""

    auto = "auto"
    contiguous = "contiguous"
    channels_last = "channels_last"


class Convolutions(StrEnum):
    """How convolutions with many weights for few pixels are computed on CPUs."""

    products = "products"
    library = "library"


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class CalibrationKind(StrEnum):
    """How logits become probabilities that can be believed."""

    auto = "auto"
    none = "none"
    temperature = "temperature"
    bias_corrected = "bias_corrected"
    vector = "vector"


class SetMethod(StrEnum):
    """By which scores prediction sets are made."""

    aps = "aps"
    lac = "lac"


class TrackingMode(StrEnum):
    """Where Weights & Biases writes."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class DataConfig:
    """Pictures, labels, splits, transforms."""

    root: str | None = None  # folder, CSV file or .npz file; unset: rehearsal
    format: DataFormat = DataFormat.auto
    labels_file: str | None = None  # CSV with labels, relative to root
    path_column: str = "path"  # of the CSV
    label_column: str = "label"  # several, separated by commas: multi-label
    label_separator: str | None = None  # for example |: several labels in one column
    split_column: str | None = "split"  # of the CSV, where there is one; null: ignore it
    group_column: str | None = "group"  # of the CSV, or several: patient,lesion; null: ignore it
    group_from: str | None = None  # regular expression on the path; its groups, or the whole match
    label_kind: LabelKind | None = None  # unset: single, or multi where there are several labels
    class_order: str | None = None  # ordinal: mild,moderate,severe; unset: numbers, by their size
    positive_class: str | None = None  # of two classes; unset: the last one
    channels: int | None = None  # 1 up; unset: the pictures' own
    image_size: int | None = None  # pixels, 16 up; unset: the model's own
    resize: Resize = Resize.squash
    transform: str = "natural"  # natural, strong, xray, histology, aerial, none, or module:function
    batch_size: int | None = 32  # pictures, 2 up; auto: the largest that fits
    views: int = 1  # how often a batch shows each picture, augmented anew each time; 1..16
    workers: int | None = None  # processes, 0 up; unset: by cores, or a thread that reads ahead
    decoding: Decoding = Decoding.scaled  # of JPEG in training; scaled: as large as needed
    pack: Pack = Pack.auto  # shrunk pictures of the training part in one file in the cache
    sampling: Sampling = Sampling.shuffled
    split: SplitChoice | None = None  # unset: the data's own, else by groups, else stratified
    split_seed: int = 0  # apart from seed: all seeds are tested on the same pictures
    x_column: str | None = None  # of the CSV: where a picture is; spatial, and checks other splits
    y_column: str | None = None  # likewise
    place_from: str | None = None  # instead: regular expression on the path; two groups, x and y
    block_size: float | None = None  # spatial: side of a block, unit of the coordinates; above 0
    block_buffer: float = 0.0  # distance kept between parts, the same unit, 0 up; 0: no same place
    time_column: str | None = None  # time: of the CSV; ISO dates or numbers
    site_column: str | None = None  # site: of the CSV
    test_site: str | None = None  # site: the one that is tested
    subgroup_columns: str | None = None  # of the CSV, separated by commas: metrics by their values
    folds: int = 5  # kfold: 2..100
    fold: int | None = None  # kfold: which one is tested, from 1; unset: all, in turn
    compare_random: bool = False  # train on a random split too, and tell both numbers
    splits_file: str | None = None  # CSV: path, label, split, optional group
    val_fraction: float = 0.2  # of what isn't test; above 0, below 1
    test_fraction: float = 0.2  # of all; 0 up, below 1
    train_fraction: float = 1.0  # share of the training pictures that is used; above 0, at most 1
    measure_test: bool = True  # false: the test part is set apart, and not looked at
    familiarity: bool = True  # keep what training features are like: predict tells what is far
    unreadable: Unreadable = Unreadable.fail
    duplicates: Duplicates = Duplicates.refuse
    near_duplicates: NearDuplicates = NearDuplicates.guard  # guard: as identical ones
    shortcuts: Shortcuts = Shortcuts.warn  # ignore: nothing is looked for
    waiver: str | None = None  # the reason for duplicates=allow; printed in the report

    @property
    def all_folds(self) -> bool:
        """Whether every fold is trained, each in a run of its own."""
        return self.split is SplitChoice.kfold and self.fold is None


@dataclass
class ModelConfig:
    """The network."""

    name: str = "resnet50"  # a timm name, or package.module:function
    weights: str | None = "pretrained"  # null, bundled, packaged, tag, hf-hub:, URL, file, folder
    head: Head = Head.linear
    pooling: str | None = None  # avg, max, avgmax, catavgmax; unset: the model's own
    drop_rate: float = 0.0  # dropout before the classifier; 0 up, below 1
    drop_path_rate: float = 0.0  # stochastic depth; 0 up, below 1


@dataclass
class Phase:
    """One stretch of an explicit freezing plan."""

    epochs: int = 1  # share of the epochs, 1 up
    depths: str = "all"  # all, head, or names and numbers separated by spaces: "layer4 head"
    lr: float | None = None  # above 0; unset: optimizer.lr


@dataclass
class FreezingConfig:
    """Which depths train when."""

    policy: FreezingPolicy = FreezingPolicy.none
    below: str | None = None  # depth or stage name: what lies below stays frozen
    phases: list[Phase] = field(default_factory=list)  # [{epochs:2,depths:head},{epochs:8}]
    frozen_fraction: float = 0.5  # gradual, head_then_all: share of epochs until all train; 0..1
    norm_statistics: NormStatistics | None = None  # unset: fixed with pretrained weights


@dataclass
class OptimizerConfig:
    """Optimizer and learning rates."""

    name: str = "adamw"  # any of timm's
    lr: float = 1e-3  # of the classifier; above 0
    weight_decay: float = 0.05  # 0 up; norms and biases have none
    decay_towards: DecayTarget = DecayTarget.zero  # start: L2-SP; the classifier: always zero
    start_decay: float | None = None  # of decay_towards=start; 0..1000; unset: weight_decay
    layer_decay: float = 0.75  # each depth below has this share of the rate above it; 0..1
    stage_lrs: dict[str, float] = field(default_factory=dict)  # stage or depth: lr


@dataclass
class ScheduleConfig:
    """Course of the learning rate over the steps."""

    name: Schedule = Schedule.cosine
    warmup_fraction: float = 0.1  # of all steps; 0 up, below 1
    final_fraction: float = 0.01  # of the rate, at the end (cosine, one_cycle, linear); 0..1
    step_count: int = 3  # step: number of drops, 1 up
    step_factor: float = 0.1  # step: factor of a drop; 0..1
    restart: bool = False  # start anew whenever the set of trainable depths changes


@dataclass
class TrainingConfig:
    """The loop."""

    epochs: int = 10  # 1 up
    precision: Precision = Precision.auto  # auto: measured; bf16_mixed: depthwise ones in fp32
    memory_format: MemoryFormat = MemoryFormat.auto  # auto: measured, or channels_last
    loss: Loss = Loss.labels  # contrastive: SimCLR's, the labels only teach a classifier beside it
    convolutions: Convolutions = Convolutions.products  # matrix products for few pixels, on CPUs
    head_fit: HeadFitting = HeadFitting.sgd  # exact: classifier alone, by L-BFGS, in one epoch
    head_strength: float | None = None  # exact: L2 penalty, above 0; unset: chosen by folds
    cache_features: CacheFeatures = CacheFeatures.auto  # always: also where one epoch reads them
    cache_views: int | None = None  # so many augmented views are cached, 1 up; unset: none
    cache_limit: float = 20.0  # GB that all cached features may take; above 0
    temperature: float = 0.3  # contrastive: of the similarities; above 0, at most 10
    ordinal: OrdinalLink | None = None  # with data.label_kind=ordinal; unset: cumulative_link
    select_metric: str | None = None  # unset: by data.label_kind
    patience_fraction: float | None = None  # stop after this share of epochs without gain; 0..1
    label_smoothing: float = 0.0  # 0 up, below 1
    class_weights: ClassWeights = ClassWeights.none
    logit_adjustment: float = 0.0  # times the log of classes' shares, in training; 0 = off, to 10
    mixup_alpha: float = 0.0  # 0 = off
    cutmix_alpha: float = 0.0  # 0 = off
    accumulation_steps: int = 1  # batches a step, 1 up
    grad_checkpointing: bool = False  # recompute instead of keeping: less memory, more time
    compile: bool = False  # torch.compile: minutes at the start, then faster steps
    max_grad_norm: float | None = 1.0  # above 0; unset: no clipping
    ema_decay: float | None = None  # above 0, below 1
    wise_ft: int | None = None  # so many steps from the starting weights to the chosen, 1..100


@dataclass
class DecisionsConfig:
    """What is made of the answers; fitted on validation pictures that did not choose the model."""

    calibration: CalibrationKind = CalibrationKind.auto  # auto: temperature, with biases if needed
    sensitivity: float | None = None  # wished, a threshold for it; above 0, at most 1; unset: none
    specificity: float | None = None  # likewise
    precision: float | None = None  # likewise
    best_f1: bool = False  # the threshold with the best F1, for each label or the positive class
    costs: list[list[float]] = field(default_factory=list)  # a row for each true class: of answers
    set_level: float | None = 0.9  # share of sets that hold the true class; 0..1; unset: no sets
    set_method: SetMethod = SetMethod.aps
    sets_by_class: bool = False  # whether each class is to have that level
    sets_randomised: bool = False  # aps: exact level, by drawing numbers
    answered_accuracy: float | None = None  # wished where the rest is left to people; 0..1
    guarantee: float | None = None  # probability with which that accuracy holds; 0..1


@dataclass
class TrackingConfig:
    """Weights & Biases. Numbers only, unless asked for more."""

    mode: TrackingMode | None = None  # unset: WANDB_MODE, else offline
    project: str | None = None  # unset: WANDB_PROJECT, else finetune
    entity: str | None = None  # unset: WANDB_ENTITY
    group: str | None = None  # joins runs; unset: WANDB_RUN_GROUP
    job_type: str | None = None  # kind of run within a group, a study's arm; unset: WANDB_JOB_TYPE
    tags: list[str] = field(default_factory=list)  # of the run
    notes: str | None = None  # free text
    pictures: bool = False  # let pictures leave the machine
    upload_model: bool = False  # the chosen weights as an artifact


@dataclass
class Config:
    """Everything that a run depends on."""

    recipe: str = "none"  # written by the recipe itself
    seed: int = 0  # 0 up; of weights, order and augmentation
    device: Device = Device.auto
    output_dir: str = "runs"  # folder of the runs
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    freezing: FreezingConfig = field(default_factory=FreezingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decisions: DecisionsConfig = field(default_factory=DecisionsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def text_fields(schema: type = Config, prefix: str = "") -> set[str]:
    """Keys whose value is free text, which the command line takes literally after the first ``=``.

    >>> "data.root" in text_fields() and "seed" not in text_fields()
    True
    """
    found = set()
    for each in fields(schema):
        if is_dataclass(each.type) and isinstance(each.type, type):
            found |= text_fields(each.type, f"{prefix}{each.name}.")
        elif each.type in (str, str | None):
            found.add(prefix + each.name)
    return found - {"recipe"}
