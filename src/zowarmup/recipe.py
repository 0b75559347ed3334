"""A recipe: everything a run depends on, as frozen structs; ``recipes`` reads them from TOML.

Unknown keys, wrong types and values out of range are refused with their path; rules between fields of one table
live in its ``__post_init__``, rules that need data or a model are checked where those are at hand.
``docs/recipes.md`` is made from the docstrings below.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Decay = Annotated[float, Meta(ge=0, lt=1)]
Tier = Literal["high", "low", "all"]
Difference = Literal["two-sided", "one-sided", "exact"]
GIVEN = "given"
"""Stands in a recipe for what was passed from Python."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What every table of a recipe shares: immutable, keys by name, unknown ones refused."""


class Iid(_Table, tag="iid", tag_field="kind", frozen=True, kw_only=True):
    """Every client draws from the same distribution; sizes differ by one at most."""


class Dirichlet(_Table, tag="dirichlet", tag_field="kind", frozen=True, kw_only=True):
    """Clients of equal size, label mixes drawn from a Dirichlet (Hsu et al. 2019, arXiv:1909.06335); the paper's."""

    alpha: Positive = 0.1
    """Concentration: 0.1 gives most clients one to three classes, 100 is nearly iid."""


class DirichletByClass(_Table, tag="dirichlet-by-class", tag_field="kind", frozen=True, kw_only=True):
    """Every class is split over the clients by a Dirichlet draw, so sizes differ too (Yurochkin et al. 2019)."""

    alpha: Positive = 0.1
    """Concentration of each class over the clients."""
    min_samples: Count = 10
    """The draw is repeated until every client holds at least this many samples."""


class Shards(_Table, tag="shards", tag_field="kind", frozen=True, kw_only=True):
    """Samples sorted by label, cut into equal shards, dealt out (McMahan et al. 2017, arXiv:1602.05629)."""

    per_client: Count = 2
    """Shards a client holds; about the number of classes it sees."""


class Quantity(_Table, tag="quantity", tag_field="kind", frozen=True, kw_only=True):
    """The same label distribution everywhere, but sizes drawn from a Dirichlet."""

    alpha: Positive = 0.5
    """Concentration of the sizes."""
    min_samples: Count = 10
    """The draw is repeated until every client holds at least this many samples."""


class Natural(_Table, tag="natural", tag_field="kind", frozen=True, kw_only=True):
    """One client for each value of a column, for instance a writer or a device."""

    column: str
    """The column that names the client."""


class Own(_Table, tag="own", tag_field="kind", frozen=True, kw_only=True):
    """Nothing is dealt out: every node of a federation over a network brings its own training set, and says which tier
    it is of. `source` is what the server tests on; its training set stands for the form of a sample alone."""


Partition = Iid | Dirichlet | DirichletByClass | Shards | Quantity | Natural | Own


class Data(_Table, frozen=True, kw_only=True):
    """Where samples come from and who holds them."""

    source: str
    """`"digits"` (embedded in scikit-learn), `"parquet"`, `"hub"`, `"python:module:function"`, or `"given"`: passed to
    `zowarmup.run` as `data`."""
    path: str | None = None
    """For `parquet`: a folder with files named `...train...` and `...test...`; relative to the current folder."""
    name: str | None = None
    """For `hub`: the Hugging Face dataset, for instance `"uoft-cs/cifar10"`."""
    image_column: str | None = None
    """The column with images; found by its type where there is only one."""
    label_column: str | None = None
    """The column with integer labels; found by its name or type where there is only one."""
    mean: tuple[float, ...] | None = None
    """Subtracted from each channel after pixels are scaled to 0..1; one value, or one a channel. Default: 0."""
    std: tuple[float, ...] | None = None
    """Divides each channel after `mean`; one value, or one a channel. Default: 1."""
    clients: Count | None = None
    """Number of clients; left out only where the partition is natural."""
    high_resource: Share | tuple[int, ...] = 0.1
    """A share of clients, drawn from the run seed, rounded to the nearest number; or a list of clients."""
    partition: Partition = msgspec.field(default_factory=Dirichlet)
    """How the samples are dealt out; a table with a `kind`. Default: the paper's."""
    take: Count | None = None
    """Use this many training samples, drawn from the run seed; all where left out."""
    validation: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of each client's samples held back for choosing settings: never trained on, evaluated apart as
    `validation_accuracy`. The paper holds 0.1."""

    def __post_init__(self) -> None:
        if self.clients is None and not isinstance(self.partition, Natural):
            raise ValueError("`clients` is required unless the partition is natural")
        if self.source == "parquet" and self.path is None:
            raise ValueError('source = "parquet" requires `path`')
        if self.source == "hub" and self.name is None:
            raise ValueError('source = "hub" requires `name`')
        if self.source not in ("digits", "parquet", "hub", GIVEN) and not _is_python(self.source):
            raise ValueError(f'`source` is "digits", "parquet", "hub" or "python:module:function", not "{self.source}"')
        if self.std is not None and min(self.std, default=1.0) <= 0:
            raise ValueError("`std` must be > 0")


class ModelSettings(_Table, frozen=True, kw_only=True):
    """The network, where its first weights come from, and what it is trained for."""

    net: str
    """`"mlp"`, `"cnn"`, `"lenet"`, `"resnet8"`, `"resnet18"`, `"vit"`, `"python:module:callable"`, or `"given"`: passed
    to `zowarmup.run` as `model`."""
    args: dict[str, Any] = {}
    """Keyword arguments of the net: `hidden = [32]` and `norm` (`"none"` or `"batch"`) for `mlp`;
    `widths = [16, 32, 64]`, `norm` (`"group"` or `"batch"`) and `groups` for `cnn`; `norm` (`"batch"` or `"group"`),
    `groups` and `width` for `resnet8` and `resnet18`; `patch`, `width`, `depth` and `heads` for `vit` (18.9 million
    parameters as it stands); those of your callable. All but `vit` take `rate`: the share of every hidden width that
    is there."""
    batch_norm: Literal["frozen", "batch"] | None = None
    """What zeroth-order forwards normalise with, required for a model with BatchNorm: the warm-up's running statistics
    (`frozen`; without a warm-up those are still 0 and 1), or the batch's own (`batch`: running ones stay as they are;
    needs `micro-batch = "all"`). Tests and predictions use the same, with `batch` over 256 samples at a time."""
    weights: str | None = None
    """A safetensors file with the initial weights; drawn from the run seed where left out."""
    task: str = "classification"
    """`"classification"` (cross-entropy in float64, accuracy), or `"python:module:Task"`."""

    def __post_init__(self) -> None:
        if self.task != "classification" and not _is_python(self.task):
            raise ValueError(f'`task` is "classification" or "python:module:Task", not "{self.task}"')


class RunSettings(_Table, frozen=True, kw_only=True):
    """What bits depend on besides the seed, and how often to look."""

    threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    """Threads of a forward pass; sums in it depend on their number, so it belongs to the recipe. 1: the same bits on
    any number of cores, and the fastest for small nets."""
    micro_batch: Count | Literal["all"] = 64
    """Samples in one pass through the network, except in first-order training: zeroth-order evaluations, exact slopes,
    sums of head and statistics phases; bounds memory. `"all"`: the client's whole batch."""
    evaluate_every: Count = 10
    """Rounds between evaluations on the test set; the end of a phase is always evaluated."""
    snapshot_every: Count = 1
    """Rounds of a first-order phase between two snapshots of the weights on disk. With more, a run that was killed runs
    up to that many rounds again when it is resumed."""
    replay_budget: NonNegative = 1e11
    """A zeroth-order phase takes a snapshot when replaying the rounds since the last would regenerate more than this
    many directions x parameters; 1e11 is about 8 seconds of one core."""
    keep_snapshots: Count | Literal["all"] = 2
    """How many of the newest snapshots are kept, beside those of round 0 and of the ends of phases."""
    sync: Literal["full", "off"] = "full"
    """`full`: a round that is done is on the disk. `off`: it is with the operating system, which survives a killed
    process and not a power cut."""
    catch_up: Literal["bytes", "work"] = "bytes"
    """What a client that missed rounds is sent: entries or a snapshot, whichever is fewer `bytes`, or makes it
    regenerate fewer directions (`work`)."""


class _AnyPhase:
    """What every phase answers. No struct itself: msgspec lets a struct have the fields of one base alone, and those of
    a phase with a learning rate come from tables that ``[phase.high]`` and ``[phase.low]`` are too."""

    __slots__ = ()

    @property
    def kind(self) -> str:
        """As the recipe names it."""
        return str(cast(msgspec.Struct, self).__struct_config__.tag)

    @property
    def parts(self) -> tuple[object, ...]:
        """The tables that say what clients do: this one, or those within it."""
        return (self,)

    @property
    def horizons(self) -> dict[str, int]:
        """Rounds after which a learning rate is 0, by the key that fixes them; empty where none ever is."""
        return {}

    @property
    def horizon(self) -> int | None:
        """The first round of the phase, from 0, with a learning rate of 0; None where there never is one."""
        return min(self.horizons.values(), default=None)

    @property
    def extendable(self) -> bool:
        """Whether a run that ends with this phase may get more rounds."""
        return True

    def lr_at(self, index: int) -> float | None:
        """Learning rate of the phase's round ``index`` (from 0); None where there is none."""
        return None


class _Phase(_AnyPhase, _Table, frozen=True, kw_only=True):
    """Keys that every phase has."""

    rounds: Count
    """Rounds of the phase."""
    cohort: Count | Literal["all"] = "all"
    """Clients sampled each round, without replacement, from the phase's tier."""


class _Scheduled(_Table, frozen=True, kw_only=True):
    """Keys of whatever has a learning rate."""

    lr: Positive
    """Learning rate at the phase's start."""
    schedule: Literal["constant", "cosine", "step"] = "constant"
    """How `lr` changes over the phase: not at all, by half a cosine down to 0, or in steps."""
    schedule_rounds: Count | None = None
    """The schedule's horizon; the phase's rounds where left out. Fix it where a phase may be extended."""
    step_every: Count | None = None
    """For `step`: rounds between two steps."""
    step_factor: Annotated[float, Meta(gt=0, le=1)] = 0.1
    """For `step`: what each step multiplies `lr` with."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, as globs over their names (`"fc.*"`); `"head"` is the last linear layer, or the
    `module` that a head phase names, and `"body"` everything else."""
    augment: Literal["none", "standard"] = "none"
    """`standard`: a random crop with 4 pixels of zero padding, and a horizontal flip; for images."""

    def __post_init__(self) -> None:
        if (self.schedule == "step") != (self.step_every is not None):
            raise ValueError('`step-every` goes with schedule = "step", and is required there')

    def lr_over(self, index: int, rounds: int) -> float:
        """Learning rate of round ``index`` (from 0) of a phase of ``rounds``."""
        if self.schedule == "step":
            return self.lr * self.step_factor ** (index // cast(int, self.step_every))
        if self.schedule == "cosine":
            horizon = self.schedule_rounds or rounds
            return self.lr * 0.5 * (1.0 + math.cos(math.pi * min(index / horizon, 1.0)))
        return self.lr

    def horizons_over(self, rounds: int, prefix: str = "") -> dict[str, int]:
        """Rounds after which a cosine schedule is at 0, by the path of its key."""
        return {f"{prefix}schedule-rounds": self.schedule_rounds or rounds} if self.schedule == "cosine" else {}


class _OwnSchedule(_AnyPhase):
    """What a phase answers that has one learning rate."""

    __slots__ = ()

    @property
    def horizons(self) -> dict[str, int]:
        """Of its schedule."""
        settings = cast("FirstOrder | ZerothOrder | SubNetwork", self)
        return settings.horizons_over(settings.rounds)

    def lr_at(self, index: int) -> float:
        """Learning rate of the phase's round ``index`` (from 0).

        >>> phase = ZerothOrder(rounds=4, lr=1.0, schedule="cosine")
        >>> [round(phase.lr_at(t), 3) for t in range(4)]
        [1.0, 0.854, 0.5, 0.146]
        """
        settings = cast("FirstOrder | ZerothOrder | SubNetwork", self)
        return settings.lr_over(index, settings.rounds)


class _LocalSGD(_Scheduled, frozen=True, kw_only=True):
    """Keys that every phase has in which clients train."""

    batch: Count | Literal["all"] = 64
    """Samples in one SGD step; the paper's 64."""
    epochs: Count = 1
    """Passes over a client's data in a round; the paper uses 3."""
    momentum: Decay = 0.0
    """Of local SGD; begins at zero each round, as clients keep no state."""
    weight_decay: NonNegative = 0.0
    """Of local SGD."""
    clip_norm: Positive | None = None
    """Largest norm of a step's gradient; no clipping where left out."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of matrix products: `tf32` matters on CUDA alone, `bf16` is autocast. Weights stay fp32."""


class _Training(_LocalSGD, frozen=True, kw_only=True):
    """Keys of local SGD, and of what the server makes of it."""

    server: Literal["fedavg", "fedavgm", "fedadam"] = "fedavg"
    """What the server does with the mean of the clients' weights (Reddi et al. 2021, arXiv:2003.00295)."""
    server_lr: Positive | None = None
    """Server's step along (mean - weights). Where left out: 1 with `fedavg` (plain averaging) and `fedavgm`; `fedadam`
    needs a value (0.01 to 0.1 as a rule: its step is that large for every weight)."""
    server_momentum: Decay = 0.9
    """For `fedavgm`; 0.9 as in arXiv:1909.06335."""
    beta1: Decay = 0.9
    """For `fedadam`: decay of the first moment; as in arXiv:2003.00295."""
    beta2: Decay = 0.99
    """For `fedadam`: decay of the second moment; as in arXiv:2003.00295."""
    adaptivity: Positive = 1e-3
    """For `fedadam`: added to the root of the second moment, which starts at its square; as in arXiv:2003.00295."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.server == "fedadam" and self.server_lr is None:
            raise ValueError('`server-lr` is required with server = "fedadam"')


class FirstOrder(_OwnSchedule, _Training, tag="first-order", tag_field="kind", frozen=True, kw_only=True):
    """Local SGD on each client of the cohort, averaged by the server; needs backprop and sends whole models."""

    rounds: Count
    """Rounds of the phase."""
    cohort: Count | Literal["all"] = "all"
    """Clients sampled each round, without replacement, from the phase's tier."""
    tier: Tier = "high"
    """Who takes part. `high` is the point of a warm-up; `all` is the oracle that today's devices cannot run."""
    average_last: Count | None = None
    """With n: in the phase's last round the weights become the mean of those after its last n rounds, that one
    included, and floating buffers likewise (Kaddour 2022, arXiv:2209.14981). Running statistics averaged so are not
    those of the averaged weights (Izmailov et al. 2018, arXiv:1803.05407): a `statistics` phase mends that. The sum so
    far is kept in float64 beside the snapshots of those rounds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average_last is not None and self.average_last > self.rounds:
            raise ValueError(f"`average-last` is {self.average_last}, more than `rounds`, which is {self.rounds}")

    @property
    def extendable(self) -> bool:
        """Not where the last round has been replaced by a mean."""
        return self.average_last is None


class _Probing(_Scheduled, frozen=True, kw_only=True):
    """Keys of slopes along random directions."""

    directions: Annotated[int, Meta(ge=1, le=1_000_000)] = 3
    """S, the directions a client evaluates in a round; the paper's 3, and 4 bytes up each. Many small-batch ones
    serve better at equal cost."""
    pool: Literal["distinct", "shared"] | Count = "distinct"
    """The K directions of a round: `distinct`, own ones for every client (the paper; K = S x cohort); `shared`, the
    same for all (K = S); or K, of which each client serves S. Down-link and replay grow with K. With `local-steps`
    the first two have new ones for every step, and of K a step's S are drawn with replacement."""
    pool_seed: Literal["round", "run"] = "round"
    """Whether the K directions are new every `round`, or the same over the whole `run` (FedKSeed, arXiv:2312.06353;
    needs `pool` = K)."""
    difference: Difference = "two-sided"
    """`two-sided`: 2 S forward passes, error of order eps squared (the paper). `one-sided`: S + 1. `exact`: inner
    products with the gradient from one backward pass, for devices short of bandwidth and not of memory; of a pool of K
    it gives all K, 4 bytes each."""
    local_steps: Count = 1
    """Steps that a client makes in a round: it evaluates S directions, moves weights of its own along them, and goes
    on from there with another batch. It sends the slopes of all steps, or K sums where that is less, and forgets its
    weights; needs step = `plain` (DeComFL, arXiv:2405.15861; FedKSeed)."""
    local_lr: Positive | None = None
    """Learning rate of local steps at the phase's start; changes as `lr` does. `lr` where left out."""
    step: Literal["plain", "rms"] = "plain"
    """`plain`: the mean of slopes (the paper). `rms`: divided by their running root mean square, so that one `lr`
    (.03 to .05) fits most nets where a round has many directions for its parameters; with few, start at .01."""
    rms_decay: Decay = 0.95
    """For `rms`: v = rms-decay v + (1 - rms-decay) sum of squared slopes; starts at its first value. A finite slope
    that is far off (1e3 times the others) keeps v large, and steps small, for tens of rounds."""
    eps: Positive = 1e-4
    """Half-step of the finite difference, in units of the weights; the paper's. Only eps x tau matters."""
    tau: Positive = 0.75
    """Scale of the Rademacher directions; the paper's. Enters the probe and the step: only eps x tau and lr x tau^2
    (with `rms`: lr x tau) matter."""
    batch: Count | Literal["all"] = "all"
    """Samples a client evaluates in a step, drawn anew each time; the paper uses all. Many directions on small
    batches serve better at equal cost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1e-38 < self.eps * self.tau < 1e38:
            raise ValueError(f"`eps` x `tau` is {self.eps * self.tau}, which fp32 does not hold")
        if isinstance(self.pool, int) and self.pool < self.directions:
            raise ValueError(f"`pool` is {self.pool}, smaller than `directions`, which is {self.directions}")
        if self.pool_seed == "run" and not isinstance(self.pool, int):
            raise ValueError(f'`pool-seed` is "run", so `pool` must be a number of directions, not "{self.pool}"')
        if self.local_steps > 1 and self.step == "rms":
            raise ValueError('`local-steps` above 1 goes with step = "plain": an RMS step is the server\'s alone')
        if self.local_lr is not None and self.local_steps == 1:
            raise ValueError("`local-lr` goes with `local-steps` above 1")


class ZerothOrder(_OwnSchedule, _Probing, tag="zeroth-order", tag_field="kind", frozen=True, kw_only=True):
    """Slopes along random directions, from forward passes alone; clients send one number a direction."""

    rounds: Count
    """Rounds of the phase."""
    cohort: Count | Literal["all"] = "all"
    """Clients sampled each round, without replacement, from the phase's tier."""
    tier: Tier = "all"
    """Who takes part; the paper lets high-resource clients go zeroth-order too."""
    high_difference: Difference | None = None
    """What high-resource clients answer with, where they differ; `difference` where left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high_difference is not None and self.tier == "low":
            raise ValueError('`high-difference` is for high-resource clients, and tier = "low" has none')

    @property
    def needs_backprop(self) -> bool:
        """Some clients answer with exact slopes."""
        return "exact" in (self.difference, self.high_difference)

    def local_lr_at(self, index: int) -> float:
        """Learning rate of local steps in the phase's round ``index`` (from 0)."""
        return self.lr_at(index) if self.local_lr is None else self.lr_at(index) * (self.local_lr / self.lr)


class Mixed(_Phase, tag="mixed", tag_field="kind", frozen=True, kw_only=True):
    """In one round, high-resource clients train first-order and low-resource ones answer with slopes: the paper's
    hi+lo. Each part's step counts by its share of the participants' samples; `lr` in metrics is that of `high`. Needs
    clients of both tiers; the cohort is sampled from all of them."""

    high: _Training
    """What high-resource clients do: the keys of `kind = "first-order"`, as `[phase.high]`, without those above and
    without `average-last`."""
    low: _Probing
    """What low-resource clients do: the keys of `kind = "zeroth-order"`, as `[phase.low]`, without those above."""

    @property
    def tier(self) -> Tier:
        """Everybody."""
        return "all"

    @property
    def parts(self) -> tuple[object, ...]:
        """That of each tier."""
        return (self.high, self.low)

    @property
    def horizons(self) -> dict[str, int]:
        """Of both schedules."""
        return self.high.horizons_over(self.rounds, "high.") | self.low.horizons_over(self.rounds, "low.")

    @property
    def first_order(self) -> FirstOrder:
        """The phase that high-resource clients see."""
        return FirstOrder(**msgspec.structs.asdict(self.high), rounds=self.rounds, cohort=self.cohort, tier=self.tier)

    @property
    def zeroth_order(self) -> ZerothOrder:
        """The phase that low-resource clients see."""
        return ZerothOrder(**msgspec.structs.asdict(self.low), rounds=self.rounds, cohort=self.cohort, tier=self.tier)

    def lr_at(self, index: int) -> float:
        """Learning rate of the high-resource clients' part in the phase's round ``index`` (from 0)."""
        return self.high.lr_over(index, self.rounds)


class Head(_Phase, tag="head", tag_field="kind", frozen=True, kw_only=True):
    """The last linear layer in closed form, from sums that clients make with forward passes alone: everybody's labels
    get their full weight in one round. Nothing but that layer changes."""

    tier: Tier = "all"
    """Who takes part; `high` shows what the low-resource clients' sums are worth."""
    rounds: Annotated[int, Meta(ge=1, le=2)] = 2
    """In the first round the head is solved; in the second clients say which of `temperatures` gives them the least
    loss. With 1, `temperatures` has one value, which is used."""
    module: str | None = None
    """The layer's name among the modules, a `torch.nn.Linear`; the last one with an output a class where no head phase
    names one."""
    form: Literal["full", "diagonal", "means", "prior"] = "full"
    """What clients send, with features f (the layer's input): `full`: ridge regression on one-hot labels, from sums of
    f f' and f y' (11 kB at 64 features and 10 classes, 0.55 MB at 512). `diagonal`: a Gaussian for each class, with
    one diagonal variance, from sums of f and f^2 and counts. `means`: the nearest class mean, from sums of f and
    counts. `prior`: label counts alone, no forward pass: the bias gets the log of each label's share among all clients
    over its share among the high-resource ones, who trained (Saerens et al. 2002; arXiv:2007.07314). It has one round,
    and `temperatures`, `ridge` and `shrinkage` are without effect."""
    smoothing: Positive = 1.0
    """For `prior`: added to every label's count before shares are taken, so that a label nobody trained on has one."""
    ridge: NonNegative = 1e-3
    """For `full` and `diagonal`: added to the diagonal, times its mean, so that the system can be solved with fewer
    samples than features."""
    shrinkage: Share = 0.0
    """For `full`: how far the sums of f f' are moved towards their diagonal; 1 is all the way."""
    temperatures: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    """What the logits are multiplied by; the one with the least loss over the clients' samples is kept."""
    min_samples: Count = 1
    """Clients with fewer training samples are not asked: sums over few samples say much about each."""

    def __post_init__(self) -> None:
        if self.form == "prior":
            if self.rounds != 1:
                raise ValueError('form = "prior" has nothing to choose a temperature for: set `rounds` to 1')
            if self.tier != "all":
                raise ValueError(f'form = "prior" compares the tiers\' labels: `tier` must be "all", not "{self.tier}"')
        elif self.rounds == 1 and len(self.temperatures) != 1:
            raise ValueError("`rounds` is 1, so `temperatures` must have the one value to use")

    @property
    def extendable(self) -> bool:
        """Never: its second round is another than its first."""
        return False


class Statistics(_Phase, tag="statistics", tag_field="kind", frozen=True, kw_only=True):
    """The running statistics of BatchNorm over everybody's data, from sums that clients make with forward passes alone.
    Nothing but those changes, exactly; needs `model.batch-norm = "frozen"`, as otherwise nothing reads them."""

    rounds: Count
    """Clients normalise with the statistics before the round, so in a net of L BatchNorm layers, one behind the other,
    the first is exact after one round, and all of them after L; fewer rounds cost less and come near."""
    begin: Literal["running", "batch"] = "running"
    """What clients normalise with in the first round: the `running` statistics; or each micro-batch's own (`batch`),
    where nobody has gathered any yet, as behind a `sub-network` phase: statistics of 0 and 1 in every layer at once
    make the next ones swing by orders of magnitude before they settle. The first layer is exact after it either way."""
    tier: Tier = "all"
    """Who takes part."""
    min_samples: Count = 1
    """Clients with fewer training samples are not asked: sums over few samples say much about each."""


class SubNetwork(_OwnSchedule, _LocalSGD, tag="sub-network", tag_field="kind", frozen=True, kw_only=True):
    """Local SGD on as much of the network as a client's tier can hold (HeteroFL, Diao et al. 2021, arXiv:2010.01264):
    high-resource clients train all of it, low-resource ones the leading channels of every hidden layer. Each weight
    becomes the mean over the clients that hold it. BatchNorm normalises with the batch's own statistics, and running
    ones stay as they are (the paper's static BatchNorm); so do other buffers."""

    rounds: Count
    """Rounds of the phase."""
    cohort: Count | Literal["all"] = "all"
    """Clients sampled each round, without replacement, from the phase's tier."""
    tier: Tier = "all"
    """Who takes part."""
    low_width: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """The share of every hidden layer's channels that low-resource clients train, rounded up; GroupNorm keeps its
    channels a group. Below 1 the net must take `rate` (see `model.args`): `vit` does not, as a part of its width is not
    a part of each head. A callable of yours flattens channels first, as torch does, so that the leading channels stay
    the leading inputs."""
    scaler: bool = True
    """Divide the outputs of every narrowed layer by `low-width` while clients train, in front of any normalisation;
    the whole network then needs no rescaling (the paper's Scaler)."""
    mask: bool = True
    """Set the logits of classes that a client does not hold to 0 in its loss, and average each row of the head over
    the clients that hold its class (the paper's masked cross-entropy). Clients then tell the server which classes they
    hold, a bit each."""
    average: Literal["clients", "samples"] = "clients"
    """The mean over the clients that hold a weight: each counts alike (the paper), or by its samples (FedAvg)."""


Phase = FirstOrder | ZerothOrder | Head | Statistics | Mixed | SubNetwork


class Recipe(_Table, frozen=True, kw_only=True):
    """A whole run."""

    name: Annotated[str, Meta(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$(?!\n)")]
    """The run's name, in tables, figures and directories: letters, digits, `_ . -`, and `/` between them."""
    method: str | None = None
    """The method's name, in summaries; the recipe's name where left out. A suite sets it."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Every draw of the run is keyed by it: partition, tiers, initial weights, cohorts, batches, directions."""
    data: Data
    """Where samples come from and who holds them."""
    model: ModelSettings
    """The network."""
    run: RunSettings = msgspec.field(default_factory=RunSettings)
    """Threads, micro-batch, evaluation."""
    phase: Annotated[tuple[Phase, ...], Meta(min_length=1)]
    """The phases, in order; each is a `[[phase]]` table with a `kind`."""
    versions: dict[str, str] = {}
    """Written by a run into its run.toml: what it ran with. Ignored when read."""

    def __post_init__(self) -> None:
        if self.model.batch_norm == "batch" and self.run.micro_batch != "all":
            raise ValueError(
                'model.batch-norm = "batch" normalises over the whole batch: set run.micro-batch = "all", '
                f"not {self.run.micro_batch}"
            )
        if self.model.batch_norm == "batch" and any(isinstance(phase, Statistics) for phase in self.phase):
            raise ValueError(
                'kind = "statistics" sets running statistics, and model.batch-norm = "batch" reads none: set "frozen"'
            )

    @property
    def rounds(self) -> int:
        """Rounds of all phases together."""
        return sum(phase.rounds for phase in self.phase)

    @property
    def first_rounds(self) -> tuple[int, ...]:
        """The first round of each phase."""
        return tuple(itertools.accumulate((phase.rounds for phase in self.phase[:-1]), initial=1))

    @property
    def parts(self) -> tuple[object, ...]:
        """The tables of all phases that say what clients do."""
        return tuple(part for phase in self.phase for part in phase.parts)

    @property
    def head(self) -> str | None:
        """The module that head phases name, which is what `head` means elsewhere too; None where none or several."""
        names = {phase.module for phase in self.phase if isinstance(phase, Head) and phase.module is not None}
        return names.pop() if len(names) == 1 else None


def _is_python(name: str) -> bool:
    parts = name.split(":")
    return len(parts) == 3 and parts[0] == "python" and all(parts)
