"""Trains many runs, one after the other or side by side.

Each run's directory says what there is to do for it, also if other processes, on other machines
perhaps, train runs in the same folder. Knows neither what the runs are compared for, nor how one of
them is trained.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from sfl.config.schema import Config
from sfl.errors import UserError
from sfl.jobs.check import ReadImages, check_all
from sfl.jobs.child import Child, asked
from sfl.jobs.display import Board
from sfl.jobs.job import Failure, Job, Outcome, locate, state
from sfl.jobs.slots import slots
from sfl.jobs.speed import thread_share
from sfl.progress import say
from sfl.runs.directory import Run
from sfl.runs.records import Provenance

POLL = 0.2  # seconds between looks at what is trained here
LOOK = 1.0  # seconds between looks at what others train


class Trainer(Protocol):
    """What trains one run, from when it is made."""

    @property
    def ended(self) -> bool: ...
    def error(self) -> UserError | None: ...
    def stop(self) -> None: ...
    def wait(self) -> None: ...
    def close(self) -> None: ...


def run_all(
    jobs: Sequence[Job], root: Path, read_images: ReadImages, *,
    side_by_side: int | Literal["auto"] = 1, jobs_per_gpu: int = 1,
) -> list[Outcome]:  # fmt: skip
    """Trains all jobs in `root`; what became of each, in their order: its finished run, or why not.

    A job without a run makes one of its name, or name-2… where another experiment has that name;
    one that is begun, here or by an earlier call, is gone on with. One that fails does not stop the
    others: see `raise_failures`. One that another process is training, on whichever machine, is
    waited for at the end, and gone on with here if that stops: each is trained once.

    read_images: the images of a config; called for each job before the first is trained.
    side_by_side: how many at once. 1: in this process, one after the other. More: each in a process
        of its own, with its share of the cores where train.threads is not set; the results are bit
        for bit those of one after the other with as many threads. auto: on GPUs as many as there
        are; else as many as train the most images a second, which is measured.
    jobs_per_gpu: how many of them share a GPU.

    Raises UserError before anything is trained for what can't be trained (see `check_all`), and for
    more at once than there are GPUs (exit 2) or memory (exit 6). Raises Stopped after Ctrl-C,
    SIGTERM or SIGHUP, when all runs are saved. If this process is killed, those of the runs stop
    and save. A run in a process of its own reads its images anew.
    """
    needs = check_all(jobs, root, read_images)
    places = [{}] if side_by_side == 1 else slots(jobs, needs, side_by_side, jobs_per_gpu)
    if len(places) == 1:

        def begin_here(job: Job, path: Path, resumes: bool, place: dict[str, str]) -> Trainer:
            say(f"training {path.name}")
            return _Here(job.config, path, resumes, read_images)

        return _Pool(jobs, root, read_images, places, begin_here).train_all()

    def begin_beside(job: Job, path: Path, resumes: bool, place: dict[str, str]) -> Trainer:
        given = thread_share(job.config, len(places)) | place
        return Child(asked(job.config, path, resumes=resumes), given)

    from sfl.training.stopping import signals_noted

    with Board(len(jobs)) as board, signals_noted():
        return _Pool(jobs, root, read_images, places, begin_beside, board).train_all()


class _Here:
    """Trains a run in this process, while it is made."""

    ended = True

    def __init__(self, config: Config, path: Path, resumes: bool, read_images: ReadImages) -> None:
        from sfl.training import start

        self._error: UserError | None = None
        try:
            if resumes:
                start.resume(Run(path), config, read_images(config))
            else:
                images = read_images(config)
                start.train(config, path.parent, path.name, exact=True, dataset=images)
        except Exception as error:
            from sfl.cli.exits import describe

            self._error = describe(error)
            self._error.__cause__ = error if self._error is not error else None

    def error(self) -> UserError | None:
        return self._error

    def stop(self) -> None: ...
    def wait(self) -> None: ...
    def close(self) -> None: ...


class _Pool:
    """The jobs of one call. places: one for each that is trained at once, its environment.

    begin: starts to train a job: its directory, whether it is resumed, its place.
    """

    def __init__(
        self, jobs: Sequence[Job], root: Path, read_images: ReadImages,
        places: Sequence[dict[str, str]],
        begin: Callable[[Job, Path, bool, dict[str, str]], Trainer], board: Board | None = None,
    ) -> None:  # fmt: skip
        self._jobs, self._root, self._read_images = jobs, root, read_images
        self._begin, self._board = begin, board
        self._free = list(places)
        self._waiting = list(range(len(jobs)))
        self._outcomes = dict[int, Outcome]()
        self._running = dict[int, tuple[Path, Trainer, dict[str, str]]]()
        self._next_look = 0.0  # at what others train
        self._said_waiting = False

    def train_all(self) -> list[Outcome]:
        from sfl.training.stopping import asked, stop

        try:
            while self._waiting or self._running:
                stop(asked())
                while self._free and self._begin_next():
                    self._collect()
                self._collect()
                if self._board:
                    epochs = sum(self._jobs[job].config.train.epochs for job in self._waiting)
                    self._board.look(len(self._outcomes), epochs)
                if self._waiting or self._running:
                    time.sleep(POLL)
        finally:
            self._stop_all()
        return [self._outcomes[number] for number in range(len(self._jobs))]

    def _begin_next(self) -> bool:
        """Begins the first waiting job that nobody trains; False if there is none."""
        if time.monotonic() < self._next_look:
            return False
        here = {path for path, *_ in self._running.values()}
        for number in list(self._waiting):
            job, path = self._jobs[number], self._locate(number)
            there = "taken" if path in here else state(path)
            if there == "finished":
                self._waiting.remove(number)
                self._outcomes[number] = Run(path)
            elif there != "taken":
                self._waiting.remove(number)
                place = self._free.pop(0)
                if self._board:
                    self._board.begin(path, job.config.train.epochs)
                trainer = self._begin(job, path, there == "interrupted", place)
                self._running[number] = path, trainer, place
                return True
        if self._waiting and not self._running and not self._said_waiting:
            names = ", ".join(self._locate(number).name for number in self._waiting)
            say(f"waiting for {names}: being trained by another process")
            self._said_waiting = True
        self._next_look = time.monotonic() + LOOK
        return False

    def _collect(self) -> None:
        """Takes note of those that have ended. One that another process has, is waited for."""
        for number, (path, trainer, place) in list(self._running.items()):
            if not trainer.ended:
                continue
            del self._running[number]
            self._free.append(place)
            self._next_look = 0.0
            if self._board:
                self._board.end(path)
            error = trainer.error()
            trainer.close()
            if error is None:
                self._outcomes[number] = Run(path)
            elif self._locate(number) != path or state(path) in ("taken", "finished"):
                self._waiting.insert(0, number)
            else:
                self._outcomes[number] = Failure(path.name, error)
                if self._waiting or self._running:
                    say(f"{path.name}: failed; the others go on")

    def _locate(self, number: int) -> Path:
        job = self._jobs[number]
        folder = job.config.data.source == "folder"
        images = Provenance(**self._read_images(job.config).provenance()) if folder else None
        return locate(job, self._root, images)

    def _stop_all(self) -> None:
        """Stops what still runs, which saves; a second signal kills it."""
        trainers = [trainer for _, trainer, _ in self._running.values()]
        if not trainers:
            return
        try:
            for trainer in trainers:
                trainer.stop()
            for trainer in trainers:
                trainer.wait()
            say("stopped; the same command goes on with them")
        finally:
            for trainer in trainers:
                trainer.close()
