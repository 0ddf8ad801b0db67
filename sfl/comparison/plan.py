"""The models of a comparison, with the runs that there are and a list of those to be trained.

Trains nothing, and computes nothing on images.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sfl.comparison.model import ComparedModel
from sfl.comparison.names import Named, name_after_run, resolve
from sfl.config.load import from_tree, override
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.jobs.job import Job, ReadImages
from sfl.progress import say
from sfl.runs import store
from sfl.runs.directory import Run
from sfl.runs.listing import judged_on, will_be_logged
from sfl.runs.records import Provenance

if TYPE_CHECKING:
    from sfl.data.dataset import Dataset

Found = tuple[Run, Config]
SAME_IMAGES = "compare runs of one data set: keep others in another folder, with --runs"


def plan(
    names: Sequence[str], overrides: Sequence[str], seeds: int | None, root: Path, *,
    training: bool = True, unfinished: bool = False,
) -> list[ComparedModel]:  # fmt: skip
    """The models, in the order in which they were named; what each lacks is in its `missing`.

    names: configs, YAML files, run directories or names of runs, mixed. Runs and configs that
        differ in the seed alone are one model.
    seeds: how many runs of a config, counted up from its own seed; None: all runs of it that there
        are, or one if none has finished.
    training: whether missing runs may be trained; if not, no images are read.
    unfinished: whether unfinished runs count as they are.

    Raises UserError for a name that means nothing, a config given twice, a single model.
    """
    named = [resolve(name, overrides, root) for name in names]
    models = plan_named(named, seeds, root, training=training, unfinished=unfinished)
    if len(models) < 2:
        hint = "runs that differ only in their seeds are one model" if len(names) > 1 else ""
        raise UserError(f"compare needs two models or more, not {', '.join(names)} alone", hint)
    return models


def plan_named(
    named: Sequence[Named], seeds: int | None, root: Path, *,
    training: bool = True, unfinished: bool = False,
    images_read: "dict[str, Dataset] | None" = None,
) -> list[ComparedModel]:  # fmt: skip
    """As `plan`, of configs and runs that have been found already; one model is enough.

    images_read: see ComparedModel; those that are read are put there.
    """
    images_read = {} if images_read is None else images_read
    models = {
        one.experiment: ComparedModel("", one.config, images_read=images_read) for one in named
    }
    for one in named:
        if one.run is not None:
            _add_named_run(models[one.experiment], one.run, one.config.train.seed)
    configs = [one for one in named if one.run is None]
    found = readable(root) if configs else ()
    finished_last = sorted(found, key=lambda each: each[0].status == "finished")
    for one in configs:
        model = models[one.experiment]
        _name_after_config(model, one)
        _add_matching_runs(model, finished_last, seeds, training)
        _list_missing(model, seeds, unfinished)
    _name_after_runs(models, named, seeds)
    return list(models.values())


def readable(root: Path) -> Iterator[Found]:
    """All runs below `root` whose config this version understands, oldest first."""
    for run in store.list_runs(root):
        try:
            yield run, from_tree(run.config_tree)
        except UserError:
            continue  # of another version, or damaged: it can't be compared


def read_images(model: ComparedModel) -> "Dataset":
    """A model's images; a comparison reads each data set once."""
    return images_reader(model.images_read)(model.config)


def images_reader(images_read: "dict[str, Dataset]") -> ReadImages:
    """What reads the images of a config, each once. The first time, it imports PyTorch."""

    def read(config: Config) -> "Dataset":
        from sfl.training.images import images_of

        return images_of(config, images_read)

    return read


def refuse_target(models: Sequence[ComparedModel]) -> None:
    """Raises UserError (exit 2) if `--target` has no accuracy that all models will log.

    Called before anything is trained.
    """
    logged = [will_log(model) for model in models]
    if judged_on(*logged):
        return
    both = {"validation_accuracy", "test_accuracy"}
    lacking = next(model for model, names in zip(models, logged, strict=True) if both - names)
    data, train = lacking.config.data, lacking.config.train
    raise UserError(
        f"--target: not all models log accuracy on the same images; {lacking.name} has "
        f"data.validation: {data.validation}, train.test_every: {train.test_every}",
        "train all with data.validation=N or with train.test_every=1",
    )


def refuse_unreadable(models: Sequence[ComparedModel], root: Path) -> None:
    """Raises UserError (exit 4) where a run that is missing has a directory of its name whose
    config this version can't read: that run would be trained again, beside it.
    """
    for job in (job for model in models for job in model.missing if job.run is None):
        run = Run(root / job.name)
        if run.config_text:
            try:
                from_tree(run.config_tree)
            except UserError as error:
                hint = "of another version, or damaged; delete it, or give another --runs"
                raise UserError(f"{run.path}: {error.message}", hint, Exit.RUN) from None


def alike(read_images: ReadImages, finished: Iterable[Run] = ()) -> ReadImages:
    """What reads images, too, and raises UserError (exit 3) for a config whose images are not those
    of the runs that have finished, or of the first config that it was asked for: their runs could
    not be compared.
    """
    first = dict[str, str]()
    for run in finished:
        if run.provenance:
            first = {"train": run.provenance.train, "test": run.provenance.test} | first

    def read(config: Config) -> "Dataset":
        dataset = read_images(config)
        images = dataset.provenance()
        for split in ("train", "test"):
            if first.setdefault(split, images[split]) != images[split]:
                said = f"does not have the {split} images of the first run"
                raise UserError(said, SAME_IMAGES, Exit.DATA)
        return dataset

    return read


def will_log(model: ComparedModel) -> set[str]:
    """Which accuracies a model's runs log; a folder may have validation images of its own."""
    logged = will_be_logged(model.config).union(*(run.logged for run in model.runs.values()))
    if model.missing and model.config.data.source == "folder" and read_images(model).validation:
        logged.add("validation_accuracy")
    return logged


def _add_named_run(model: ComparedModel, run: Run, seed: int) -> None:
    """Of two runs of one seed only one counts: a finished one, else the newer one."""
    for one in model.runs.values():
        if one.provenance and run.provenance and one.provenance != run.provenance:
            said = f"{one.path} and {run.path}: the same settings on different images"
            raise UserError(said, "compare runs on the same images", Exit.DATA)
    other = model.runs.get(seed, run)
    if other.path.resolve() != run.path.resolve():
        ranked = sorted((other, run), key=lambda one: (one.status == "finished", one.modified))
        ignored, run = ranked
        say(f"{ignored.path} is left out: {run.path} has the same seed")
    model.runs[seed] = run


def _name_after_config(model: ComparedModel, one: Named) -> None:
    """Gives a model the name and the settings of its config."""
    if model.name:
        same = f"{one.name} is the same experiment as {model.name}"
        said = f"{one.name} is named twice" if one.name == model.name else same
        raise UserError(said, "give each experiment once")
    model.name, model.config = one.name, one.config


def _add_matching_runs(
    model: ComparedModel, finished_last: Sequence[Found], seeds: int | None, training: bool
) -> None:
    """Adds the runs of a model's config, one of each seed; runs that were named stay.

    The name of a folder doesn't say which images are in it, so their fingerprints must be equal.
    Where nothing may be trained they need not be there: results.py compares what runs say of them.
    """
    identity = model.config.identity()
    same = [(run, config) for run, config in finished_last if config.identity() == identity]
    if same and training and model.config.data.source == "folder":
        images = Provenance(**read_images(model).provenance())
        same = [(run, config) for run, config in same if run.provenance == images]
    last = {config.train.seed: run for run, config in same}
    for seed, run in last.items():
        if seeds is None or seed in _wanted(model, seeds):
            model.runs.setdefault(seed, run)


def _list_missing(model: ComparedModel, seeds: int | None, unfinished: bool) -> None:
    """Lists as jobs the seeds without a run that counts."""
    have = {seed for seed, run in model.runs.items() if unfinished or run.status == "finished"}
    if seeds is None and have:
        return
    for seed in _wanted(model, seeds):
        if seed not in have:
            config = override(model.config, [f"train.seed={seed}"])
            job = Job(store.run_name(model.name, config), config, model.runs.get(seed))
            model.missing.append(job)


def _wanted(model: ComparedModel, seeds: int | None) -> range:
    first = model.config.train.seed
    return range(first, first + (seeds or 1))


def _name_after_runs(
    models: dict[str, ComparedModel], named: Sequence[Named], seeds: int | None
) -> None:
    """Gives each model without a config a name of its own, after its first run."""
    for one in named:
        model = models[one.experiment]
        if not model.name and one.run is not None:
            model.name = name_after_run(one.run, {other.name for other in models.values()})
            if seeds is not None:
                say(f"{model.name}: --seeds is ignored: the runs themselves were named")
