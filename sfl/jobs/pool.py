"""Trains many runs, one after the other or side by side.

Each run's directory says what there is to do for it, also if other processes, on other machines
perhaps, train runs in the same folder. Knows neither what the runs are compared for, nor how one of
them is trained.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

from sfl.config.schema import Config
from sfl.cores import usable_cores
from sfl.errors import Exit, UserError
from sfl.jobs.check import check_all
from sfl.jobs.child import Child
from sfl.jobs.display import Board
from sfl.jobs.job import ONE, AtOnce, Failure, Job, Outcome, ReadImages, State, locate, state
from sfl.jobs.slots import slots
from sfl.jobs.speed import thread_share
from sfl.progress import say
from sfl.runs.directory import Run
from sfl.units import few

POLL = 0.1  # seconds between looks at what is trained here
LOOK = 1.0  # seconds between looks at what others train


class Trainer(Protocol):
    """What trains runs, one after another. `ended` and `error` are of the last one."""

    def train(self, config: Config, path: Path, *, resumes: bool) -> None: ...
    @property
    def ended(self) -> bool: ...
    def error(self) -> UserError | None: ...
    def stop(self) -> None: ...
    def wait(self) -> None: ...


def run_all(
    jobs: Sequence[Job], root: Path, read_images: ReadImages, at_once: AtOnce = ONE,
    later: Sequence[Job] = (),
) -> list[Outcome]:  # fmt: skip
    """Trains all jobs in `root`; what became of each, in their order: its finished run, or why not.

    A job without a run makes one of its name, or name-2… where another experiment has that name;
    one that is begun, here or by an earlier call, is gone on with. One that fails does not stop the
    others. One that another process is training, on whichever machine, is
    waited for at the end, and gone on with here if that stops: each is trained once.

    read_images: the images of a config; called for all before the first job is trained.
    later: what a later call will be asked for; it is refused now if it can't be trained.

    Raises UserError before anything is trained for what can't be trained (see `check_all`), for
    more at once than there are GPUs (exit 2) or memory (exit 6), and for a Ray that isn't there.
    Raises Stopped after Ctrl-C, SIGTERM or SIGHUP, when all runs are saved. If this process is
    killed, those of the runs stop and save.
    """
    from sfl.training.stopping import signals_noted

    with ExitStack() as opened:

        def start(count: int) -> list[Child]:
            share = thread_share(count)
            return [opened.enter_context(closing(Child(share, read_images))) for _ in range(count)]

        count = min(at_once.jobs, len(jobs)) if at_once.jobs != "auto" else 0
        # Now: they import PyTorch, for seconds, while the jobs are checked.
        early = at_once.engine == "processes" and 1 < count <= usable_cores()
        children = start(count) if early else []
        needs = check_all([*jobs, *later], root, read_images)
        trainers: Sequence[Trainer]
        if at_once.engine == "ray":
            from sfl.jobs.on_ray import connect

            trainers = [opened.enter_context(closing(one)) for one in connect(jobs, at_once)]
        else:
            places = [{}] if at_once.jobs == 1 else slots(jobs, needs, at_once, read_images)
            if len(places) == 1:
                return _Pool(jobs, root, read_images, [_Here(read_images)]).train_all()
            trainers = children = children or start(len(places))
            for child, place in zip(children, places, strict=True):
                child.place = place
            for line in sorted({need.engine for need in needs} - {""}):
                say(line)  # what workers say is seen only if they fail
        with Board(len(jobs)) as board, signals_noted():
            return _Pool(jobs, root, read_images, trainers, board).train_all()


class _Here:
    """Trains runs in this process: `train` returns when it has ended."""

    ended = True

    def __init__(self, read_images: ReadImages) -> None:
        self._read_images = read_images
        self._error: UserError | None = None

    def train(self, config: Config, path: Path, *, resumes: bool) -> None:
        from sfl.training import start

        say(f"training {path.name}")
        self._error = None
        try:
            start.train_at(path, config, self._read_images(config), resumes=resumes)
        except Exception as error:
            from sfl.cli.exits import describe

            self._error = describe(error)
            self._error.__cause__ = error if self._error is not error else None

    def error(self) -> UserError | None:
        return self._error

    def stop(self) -> None: ...
    def wait(self) -> None: ...


class _Pool:
    """The jobs of one call. trainers: one for each that is trained at once."""

    def __init__(
        self, jobs: Sequence[Job], root: Path, read_images: ReadImages,
        trainers: Sequence[Trainer], board: Board | None = None,
    ) -> None:  # fmt: skip
        self._jobs, self._root, self._read_images = jobs, root, read_images
        self._board = board
        self._free = list(trainers)
        self._waiting = list(range(len(jobs)))
        self._outcomes = dict[int, Outcome]()
        self._running = dict[int, tuple[Path, Trainer, State]]()
        self._next_look = 0.0  # at what others train
        self._said_waiting = False

    def train_all(self) -> list[Outcome]:
        from sfl.training.stopping import asked, stop

        try:
            while self._waiting or self._running:
                stop(asked())
                self._collect()
                while self._free and self._begin_next():
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
        here = {path for path, _, _ in self._running.values()}
        for number in list(self._waiting):
            job, path = self._jobs[number], self._locate(number)
            there = "taken" if path in here else state(path)
            if there == "finished":
                self._waiting.remove(number)
                self._outcomes[number] = Run(path)
            elif there != "taken":
                self._waiting.remove(number)
                trainer = self._free.pop(0)
                if self._board:
                    self._board.begin(path, job.config.train.epochs)
                trainer.train(job.config, path, resumes=there == "interrupted")
                self._running[number] = path, trainer, there
                return True
        if self._waiting and not self._running and not self._said_waiting:
            names = few([self._locate(number).name for number in self._waiting])
            say(f"waiting for {names}: being trained by another process")
            self._said_waiting = True
        self._next_look = time.monotonic() + LOOK
        return False

    def _collect(self) -> None:
        """Takes note of those that have ended. One that another process has, is waited for."""
        for number, (path, trainer, began) in list(self._running.items()):
            if not trainer.ended:
                continue
            del self._running[number]
            self._free.append(trainer)
            self._next_look = 0.0
            if self._board:
                self._board.end(path)
            if (error := trainer.error()) is None:
                self._outcomes[number] = Run(path)
            elif self._locate(number) != path or self._is_others(path, began, error):
                self._waiting.insert(0, number)
            else:
                self._outcomes[number] = Failure(path.name, error)
                others = "; the others go on" if self._waiting or self._running else ""
                say(f"{path.name}: failed{others}")

    @staticmethod
    def _is_others(path: Path, began: State, error: UserError) -> bool:
        """Whether another process took the run after it was begun here; that may have stopped."""
        there = state(path)
        refused = began == "new" and there == "interrupted" and error.exit_code is Exit.RUN
        return refused or there in ("taken", "finished")

    def _locate(self, number: int) -> Path:
        return locate(self._jobs[number], self._root, self._read_images)

    def _stop_all(self) -> None:
        """Stops what still runs, which saves; a second signal kills it."""
        busy = [trainer for _, trainer, _ in self._running.values()]
        for trainer in busy:
            trainer.stop()
        for trainer in busy:
            trainer.wait()
        if busy:
            say("stopped; the same command goes on with them")
