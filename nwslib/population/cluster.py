"""Train a design on a cluster: the same rows and the same networks as on one machine, bit for bit.

The design is cut into tasks, rows of one architecture and batch size. A worker sends each network when it has finished;
only the client yields, and so writes, networks. A worker may be lost at any moment: what had arrived is kept, the rest
is trained elsewhere. Dask sends Python objects, so whoever reaches the scheduler can run code on every machine of the
cluster: use one that you trust, on a network that you trust.
"""

import getpass
import json
import logging
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from math import ceil
from pathlib import Path
from typing import IO, Any

import dask
import numpy as np
import torch
import xarray as xr

from nwslib import __version__, population, space
from nwslib.population import implementations
from nwslib.population import progress as status_line
from nwslib.population.device import resolve_device
from nwslib.population.images import ImageSet
from nwslib.population.networks import cnn
from nwslib.population.slots import rows
from nwslib.population.train import PROTOCOL_VERSION, Training, identity
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.schema import SCHEMA_VERSION, SNAPSHOTS, VARIABLES

try:
    from distributed import Client, Future, KilledWorker, LocalCluster, Queue, get_client, get_worker
    from distributed.protocol import to_serialize
except ImportError as error:
    raise ImportError("training on a cluster needs dask.distributed: pip install 'nwslib[cluster]'") from error

try:
    import fcntl
except ImportError:  # not on Windows: there, each worker takes the first GPU that it sees
    fcntl = None

#: An image set, or what gives it on the worker.
Images = Mapping[str, ImageSet | Callable[[], ImageSet]]

TASKS_PER_WORKER = 4  # so that the tasks that end last are short
CROWD = 8  # networks side by side from which on a core works well: a task has as many, where there are enough
WAITING = 16  # finished networks on the scheduler from which on workers wait for the client
PATIENCE = 60  # seconds without a network, from which on it matters whether there is a worker at all
RETURN = 600  # seconds that a lost worker may take to come back; after 15 Dask itself would close it for good
HOPELESS = 8  # networks that fail one after the other from which on it is not their fault
_POLL = 0.1  # seconds

_alone = threading.Lock()  # one training at a time in a process: it owns the threads or the GPU
_locks: list[IO[str]] = []  # held as long as the process lives
_loaded: dict[str, dict[str, ImageSet]] = {}  # what image functions gave to the current run
_log = logging.getLogger(__name__)


def train(
    design: xr.Dataset,
    images: Images,
    *,
    client: Client | str | None = None,
    rows_per_task: int | None = None,
    retries: int = 2,
    device: str = "auto",
    progress: bool = True,
    **training: Any,
) -> Training:
    """Train every network of a design on a cluster and yield each when it has finished.

    Parameters
    ----------
    design
        From `nwslib.space.sample` or by hand; one row per network.
    images
        For each name in ``design["dataset"]``, and in ``design["dataset_after"]`` if it is there, an image set, which
        is sent to each worker once, or a function without arguments that gives it on the worker:
        ``functools.partial(nwslib.population.images.load, "svhn")``.
    client
        A client, or the address of a scheduler (``"tcp://10.0.0.1:8786"``); neither cluster is closed. By default a
        cluster on this machine, one worker per GPU or else per core, is started, and closed at the end: then a script
        needs the line ``if __name__ == "__main__":``.
    rows_per_task
        Networks in one task at most; by default as many as let every worker have a few tasks.
    retries
        How often a network that failed on its own is tried again. A task of several that fails is cut in two.
    device
        Of each worker: ``"auto"``, ``"cpu"``, ``"cuda"`` (a GPU of its own), ``"cuda:1"``. Must be said where the
        workers have another kind of device than this machine.
    progress
        Whether to show a status line where somebody watches.
    **training
        The rest of `nwslib.population.train`: ``max_epochs``, ``precision``, ``slots``, ``updates``, ...

    Returns
    -------
    Training
        As that of `nwslib.population.train`, in the order of arrival; each row once. A network whose every try failed
        has status ``"failed"`` and the error as its reason. When it is closed or dropped, the tasks are cancelled; a
        worker of a cluster that stays notices this when its next network finishes.

    Raises
    ------
    ValueError
        Before anything is trained: as `nwslib.population.train`, if the networks are of another family than ``"cnn"``,
        or if a worker has several threads.
    RuntimeError
        If workers differ in device, versions or images from each other or from this machine, there are more workers
        than GPUs on one machine, if network after network fails and none finishes, or a cluster that was started here
        has lost its workers for good; any other is waited for.
    ConnectionError
        If the scheduler is lost, or the client closed, in mid-run.

    Notes
    -----
    Every worker must be of the same kind: an implementation of arithmetic that differs in the last bit trains another
    network.
    """
    design = space.complete(design)
    if space.family_of(design).name != "cnn":
        raise ValueError(
            f"a cluster trains networks of the family 'cnn', not {space.family_of(design).name!r}: those are trained "
            "faster than they travel, so train them with nwslib.population.train"
        )
    for name, number, least in (("rows_per_task", rows_per_task, 1), ("retries", retries, 0)):
        if number is not None and (not isinstance(number, int) or number < least):
            raise ValueError(f"{name} must be a whole number, at least {least}, not {number!r}")
    for name in space.image_sets(design):
        if name not in images:
            raise ValueError(f"the design needs the image set {name!r}. {space.nearest(name, images)}")
    stack = ExitStack()
    try:
        if progress:
            stack.callback(status_line.report, "")
            status_line.report("waiting for workers")
        cluster = _connect(client, design.sizes["model"], device, stack)
        run = _Run(cluster, client is None, design, images, {"device": device, **training})
        stack.callback(run.close)
        run.prepare()
    except BaseException:
        stack.close()
        raise
    finished = _finished(run, rows_per_task, retries, progress, stack)
    result = Training(design, run.plan.parameters, run.plan.implementation, finished)
    weakref.finalize(result, stack.close)  # also when nobody ever asks for a network
    return result


@dataclass(frozen=True)
class _Plan:
    """What a worker is about to do; its facts must be those of all others."""

    parameters: dict[str, Any]
    implementation: str
    facts: Mapping[str, Any]
    image_counts: Mapping[str, int]


@dataclass(frozen=True)
class _Task:
    """Rows of one architecture and batch size, and how they fared so far."""

    models: tuple[int, ...]
    priority: int
    tries: int = 0
    failed_on: tuple[str, ...] = ()
    only_on: tuple[str, ...] = ()


class _SetUpError(RuntimeError):
    """A worker is not what it must be: no network is to blame, and another try is of no use."""


@dataclass
class _Run:
    """One training on a cluster, as the client sees it."""

    client: Client
    own: bool  # whether the cluster was started here: nobody else will add a worker
    design: xr.Dataset
    images: Images
    options: Mapping[str, Any]
    name: str = field(default_factory=lambda: f"nws-{uuid.uuid4().hex[:12]}")
    running: dict[Future, _Task] = field(default_factory=dict)
    arrived: dict[str, list[int]] = field(default_factory=dict)  # by task: what another try need not train

    def __post_init__(self) -> None:
        self.places = {model: place for place, model in enumerate(self.design["model"].values.tolist())}
        self.missing = set(self.places)
        self.queue = Queue(self.name, client=self.client)
        # A task and not scattered data: Dask makes it anew for workers that join, even when all others were lost.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
            self.held = self.client.submit(_held, _on_cpu(self.images), key=f"{self.name}-images")

    def prepare(self) -> None:
        """Have every worker say what it will do, make sure that all agree, and hold them to it."""
        plans = self._plans() or self._plans() or self._plans()
        if not plans:
            raise RuntimeError("every worker was lost, three times, while it got ready: see its log")
        first, self.plan = next(iter(plans.items()))
        for worker, plan in plans.items():
            _check_same(self.plan.facts, f"worker {first}", plan.facts, f"worker {worker}")
        _check_same(self.plan.facts, "the cluster", _known(self.images, self.options["device"]), "this machine")
        self.options = {**self.options, "implementation": self.plan.implementation}

    def _plans(self) -> dict[str, _Plan]:
        self.client.wait_for_workers(1, timeout=PATIENCE if self.own else None)
        workers = self.client.nthreads()
        for worker, threads in workers.items():
            if threads > 1:
                raise ValueError(
                    f"a training needs a process of its own, but worker {worker} runs {threads} tasks at once: start "
                    f"workers of one thread (--nthreads 1), one per GPU or core"
                )
        asked = (self.design, self.held, self.options, self.name)
        futures = {one: self.client.submit(_make_plan, *asked, workers=[one], pure=False) for one in workers}
        while not all(futures[one].done() for one in futures.keys() & self.client.nthreads()):
            time.sleep(_POLL)
        return {one: future.result() for one, future in futures.items() if future.done()}

    def submit(self, task: _Task) -> None:
        """Give a task to the cluster; not to a worker that it failed on, as long as there is another."""
        number = str(len(self.arrived))
        part = self.design.isel(model=[self.places[model] for model in task.models])
        others = tuple(one for one in self.client.nthreads() if one not in task.failed_on) if task.failed_on else ()
        future = self.client.submit(
            _work,
            *(part, self.held, self.options, self.plan, self.name, number),
            key=(f"{self.name}-train", int(number)),
            priority=task.priority,
            workers=list(others) or None,  # strictly: an idle worker would steal it, and one that fails at once is idle
        )
        self.arrived[number] = []
        self.running[future] = replace(task, only_on=others)

    def collect(self) -> list[xr.Dataset]:
        """Take the networks that have arrived, each only once."""
        if self.client.status != "running":
            raise ConnectionError("the scheduler is out of reach. What has arrived is kept: train again what remains")
        new = []
        for number, network in self.queue.get(batch=True):
            model = network["model"].item()
            if model in self.missing:
                self.missing.remove(model)
                new.append(network)
            self.arrived[number].append(model)
            self.client.set_metadata([self.name, number], self.arrived[number])
        return new

    def over(self) -> list[Future]:
        """Give the tasks that have ended, and so sent all they will, and those whose only workers are gone."""
        alive = self.client.nthreads().keys() if any(task.only_on for task in self.running.values()) else set()
        return [
            future
            for future, task in self.running.items()
            if future.done() or (task.only_on and alive.isdisjoint(task.only_on))
        ]

    def settle(self, over: Iterable[Future], retries: int) -> dict[int, str]:
        """Try again what ended tasks have left, and give what has failed for good, with reasons."""
        failed = {}
        for future in over:
            task = self.running.pop(future)
            left = tuple(model for model in task.models if model in self.missing)
            if not left:
                continue
            if not future.done():
                future.cancel()
                self.submit(replace(task, models=left))
                continue
            worker, reason = _outcome(future)
            task = replace(task, models=left, failed_on=(*task.failed_on, worker))
            if len(left) > 1:  # one of them may be to blame: find it
                middle = len(left) // 2
                self.submit(replace(task, models=left[:middle]))
                self.submit(replace(task, models=left[middle:]))
            elif task.tries < retries:
                self.submit(replace(task, tries=task.tries + 1))
            else:
                self.missing.remove(left[0])
                failed[left[0]] = reason
        return failed

    def failed(self, model: int, reason: str) -> xr.Dataset:
        """Describe a network that could not be trained."""
        (row,) = rows(self.design.isel(model=[self.places[model]]))
        return _failed(row, self.plan, reason)

    def close(self) -> None:
        """Leave nothing on the cluster but, where a worker was lost, the name of an empty queue."""
        if self.client.status != "running":
            return  # a cluster that is gone holds nothing, and one whose client is gone forgets what it asked for
        with suppress(OSError):
            self.client.cancel([*self.running, self.held])
            self.client.set_metadata(self.name, {})
            self.queue.get(batch=True)
            self.queue.close()


def _connect(client: Client | str | None, networks: int, device: str, stack: ExitStack) -> Client:
    """Give a client, and have the stack close what is ours."""
    if isinstance(client, Client):
        return client
    if client is None:
        place = resolve_device(device)
        most = 1 if ":" in device else torch.cuda.device_count() if place.type == "cuda" else dask.system.CPU_COUNT
        options = {"processes": True, "threads_per_worker": 1, "memory_limit": None}
        stack.enter_context(dask.config.set({"distributed.deploy.lost-worker-timeout": RETURN}))
        client = stack.enter_context(
            LocalCluster(n_workers=max(1, min(most, networks)), dashboard_address="127.0.0.1:0", **options)
        )
    return stack.enter_context(Client(client, set_as_default=False))


def _on_cpu(images: Images) -> dict[str, ImageSet | Callable[[], ImageSet]]:
    """Make image sets fit to be sent: no worker need have the device that they lie on."""
    parts = ("train_images", "train_labels", "test_images", "test_labels")
    return {
        name: replace(one, **{part: getattr(one, part).cpu() for part in parts}) if isinstance(one, ImageSet) else one
        for name, one in images.items()
    }


def _known(images: Images, device: str) -> dict[str, Any]:
    """Give the facts that this machine knows before any worker has said them."""
    known = {"nwslib": __version__}
    known |= {f"image set {name!r}": one.version for name, one in images.items() if isinstance(one, ImageSet)}
    return known | ({"device": resolve_device(device).type} if device == "auto" else {})


def _check_same(facts: Mapping[str, Any], who: str, others: Mapping[str, Any], whose: str) -> None:
    for name, value in others.items():
        if facts[name] != value:
            advice = "say which device= you mean" if name == "device" else "all need the same"
            raise _SetUpError(f"{name}: {who} has {facts[name]}, but {whose} has {value}: {advice}")


def _finished(
    run: _Run, rows_per_task: int | None, retries: int, progress: bool, stack: ExitStack
) -> Iterator[xr.Dataset]:
    """Yield networks as they arrive; those that failed once it is clear that others do not."""
    networks, failed = len(run.missing), {}
    started = heard = time.monotonic()
    with stack:
        for task in _cut(run.design, run.plan.image_counts, len(run.client.nthreads()), rows_per_task):
            run.submit(task)
        while run.missing:
            over = run.over()
            new = run.collect()
            if new:
                yield from [run.failed(model, failed.pop(model)) for model in sorted(failed)]
                yield from new
                heard = time.monotonic()
            elif over:
                failed |= run.settle(over, retries)
            else:
                time.sleep(_POLL)
            if len(failed) >= HOPELESS:
                reason = failed.popitem()[1]
                raise RuntimeError(f"{HOPELESS} networks failed and none finished in between. The last: {reason}")
            lonely = time.monotonic() - heard > PATIENCE and not run.client.nthreads()
            if lonely and run.own:
                raise RuntimeError("every worker is gone, and none has come back: for want of memory, perhaps")
            if progress:
                _report(networks - len(run.missing), networks, time.monotonic() - started, lonely)
        yield from [run.failed(model, reason) for model, reason in sorted(failed.items())]


def _report(done: int, networks: int, seconds: float, lonely: bool) -> None:
    words = [f"{done} of {networks} networks"]
    if done:
        words.append(f"{3600 * done / seconds:,.0f} per hour")
        words.append(f"about {status_line.duration(seconds * (networks - done) / done)} to go")
    if lonely:
        words.append("waiting for a worker")
    status_line.report(", ".join(words))


def _cut(design: xr.Dataset, image_counts: Mapping[str, int], workers: int, rows_per_task: int | None) -> list[_Task]:
    """Cut a design into tasks of rows that share tensor shapes; what takes longest comes first."""
    groups: dict[tuple, dict[int, float]] = {}  # cost of each row, by what fixes shapes
    names = (*space.ARCHITECTURE, "batch_size")
    columns = [design[name].values.tolist() for name in ("model", "dataset", *names)]
    for model, dataset, *shape in zip(*columns, strict=True):
        cost = _operations(tuple(shape[:-1])) * image_counts[dataset]
        groups.setdefault(tuple(shape), {})[model] = cost
    total = sum(sum(group.values()) for group in groups.values())
    share = total / (TASKS_PER_WORKER * workers) if workers > 1 else total
    least = min(CROWD, ceil(design.sizes["model"] / workers))
    pieces = []
    for group in groups.values():
        suitable = max(least, int(share * len(group) / sum(group.values())))
        parts = np.array_split(list(group), ceil(len(group) / (rows_per_task or suitable)))
        pieces += [(sum(group[model] for model in part.tolist()), tuple(part.tolist())) for part in parts]
    pieces.sort(reverse=True)
    return [_Task(models, priority=-rank) for rank, (_, models) in enumerate(pieces)]


@cache
def _operations(architecture: tuple) -> int:
    """Count the multiplications of a network for one image, forward."""
    row = dict(zip(space.ARCHITECTURE, architecture, strict=True))
    kernels = [tensor for tensor in _layout(row).tensors if tensor.kind == "kernel"]
    # Channels double where the side of the feature maps is halved.
    sides = [
        row["image_size"] * row["width_conv"] // one.shape[0] if one.part == "convolution" else 1 for one in kernels
    ]
    return sum(one.size * side**2 for one, side in zip(kernels, sides, strict=True))


def _layout(row: Mapping[str, Any]) -> Layout:
    return cnn.layout(**{name: row[name] for name in space.ARCHITECTURE if name != "family"})


def _outcome(future: Future) -> tuple[str, str]:
    """Say where a task ended that left rows, and why."""
    if future.cancelled():
        raise RuntimeError("the cluster dropped its tasks: was it restarted? Train again what remains")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return error.last_worker.address, "the worker was lost each time, for want of memory perhaps: see its log"
    return future.result()


def _failed(row: Mapping[str, Any], plan: _Plan, reason: str) -> xr.Dataset:
    """Describe a network that could not be trained: its row, and NaN."""
    layout = _layout(row)
    sizes = {"model": 1, "snapshot": SNAPSHOTS, "weight": layout.size, "evaluation": 1}
    data = {
        name: (one.dims, np.full([sizes[axis] for axis in one.dims], np.nan if one.type == "float32" else 0, one.type))
        for name, one in VARIABLES.items()
    }
    data |= {"updates": data["weights"]} if "updates" in plan.parameters else {}
    results = {"n_exports": 0, "steps": 0, "seconds": 0.0, "status": "failed", "reason": reason}
    about = {**row, "id": identity(row, plan.parameters), **results}
    coordinates = {name: ("model", [value]) for name, value in about.items()}
    coordinates["snapshot"] = ("snapshot", np.arange(1, SNAPSHOTS + 1))
    attributes = {
        "schema_version": SCHEMA_VERSION,
        "library_version": __version__,
        "protocol_version": PROTOCOL_VERSION,
        "layout": layout.to_json(),
        "parameters": json.dumps(plan.parameters, sort_keys=True),
        "implementation": json.dumps(implementations.described(plan.implementation), sort_keys=True),
        "device": plan.facts["device"],
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return xr.Dataset(data, coordinates, attributes)


def _held(images: Images) -> Images:
    """Give what was given: as the result of a task it lies on the workers that need it, each once."""
    return images


def _make_plan(design: xr.Dataset, images: Images, options: Mapping[str, Any], run: str) -> _Plan:
    """Say on a worker what it would do."""
    with _alone:
        return _begin(design, images, options, run)[1]


def _begin(design: xr.Dataset, images: Images, options: Mapping[str, Any], run: str) -> tuple[Training, _Plan]:
    sets = _image_sets(images, run)
    device = _own_device(options["device"])
    training = population.train(design, sets, **{**options, "device": str(device)}, progress=False)
    parameters = training.parameters
    facts = {"device": device.type, "nwslib": __version__, "torch": str(torch.__version__)}
    facts |= {"implementation": training.implementation}
    facts |= {f"image set {name!r}": one.version for name, one in sets.items()}
    facts |= {name: value for name, value in parameters.items() if name != "images"}
    counts = {name: len(one.train_images) for name, one in sets.items()}
    return training, _Plan(parameters, training.implementation, facts, counts)


def _image_sets(images: Images, run: str) -> dict[str, ImageSet]:
    """Give the image sets, those that are made here once per run."""
    if run not in _loaded:
        _loaded.clear()
        _loaded[run] = {name: one if isinstance(one, ImageSet) else one() for name, one in images.items()}
    return _loaded[run]


def _own_device(device: str) -> torch.device:
    """Find the device of this worker; a GPU that no other worker has, if none is named."""
    place = resolve_device(device)
    if place.type != "cuda":
        return place
    place = place if place.index is not None else _own_gpu()
    torch.cuda.set_device(place)
    return place


@cache
def _own_gpu() -> torch.device:
    """Take the first GPU that no other worker has taken: dask-cuda lets each see all, its own first."""
    if fcntl is None:
        return torch.device("cuda", 0)
    for number in range(torch.cuda.device_count()):
        name = f"nwslib-{getpass.getuser()}-{torch.cuda.get_device_properties(number).uuid}.lock"
        lock = (Path(tempfile.gettempdir()) / name).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            _locks.append(lock)
            return torch.device("cuda", number)
    raise _SetUpError(f"each of the {torch.cuda.device_count()} GPUs of this machine has a worker: start no more")


def _work(
    design: xr.Dataset, images: Images, options: Mapping[str, Any], plan: _Plan, run: str, number: str
) -> tuple[str, str]:
    """Train rows on a worker, and send each network when it has finished.

    Returns the worker's address, and what went wrong. An error in the worker's set-up is raised.
    """
    client = get_client()
    queue = Queue(run, client=client)
    trained = client.get_metadata([run, number], ())  # by a worker that was lost
    design = design.isel(model=~np.isin(design["model"].values, trained))
    reason = "it was trained, but did not arrive"
    try:
        with _alone:
            training, own = _begin(design, images, options, run)
            _check_same(plan.facts, "the first worker", own.facts, f"worker {get_worker().address}")
            _send(training, queue, number)
    except (_SetUpError, ImportError, FileNotFoundError):
        raise
    except Exception as error:
        _log.exception("a task failed")
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    finally:
        queue.close()
    return get_worker().address, reason


def _send(training: Iterable[xr.Dataset], queue: Queue, number: str) -> None:
    """Send networks as long as somebody wants them, and no faster than they are taken."""
    for network in training:
        while _wanted() and queue.qsize() >= WAITING:
            time.sleep(_POLL)
        if not _wanted():
            return
        queue.put(to_serialize((number, network)))


def _wanted() -> bool:
    """Whether the task that runs here has not been cancelled."""
    worker = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    return task is not None and task.state == "executing"
