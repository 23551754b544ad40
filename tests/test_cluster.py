import os
import signal
import time
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

from nwslib import population, snapshots, space  # noqa: E402
from nwslib.population import cluster, images  # noqa: E402
from nwslib.snapshots.schema import validate  # noqa: E402

OPTIONS = {"max_epochs": 2, "progress": False, "device": "cpu"}


@contextmanager
def two_workers():
    """Two worker processes; one that is lost may take its time to come back."""
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": cluster.RETURN}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", memory_limit=None
        ) as processes,
        distributed.Client(processes, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def local():
    with two_workers() as client:
        yield client


@pytest.fixture
def mortal():
    """A cluster for a test that kills workers: those of other tests live on."""
    with two_workers() as client:
        yield client


@pytest.fixture(scope="module")
def digits():
    return {"digits": images.load("digits", size=16, train_limit=500, test_limit=50)}


def designed(networks, **fixed):
    return space.sample("nws_small", networks, seed=3, dataset="digits", **{"batch_size": [64, 128], **fixed})


def stored(folder, finished):
    snapshots.write(folder, finished)
    snapshots.verify(folder)
    return snapshots.open_population(folder)


def on_one_machine(folder, design, sets, **options):
    return stored(folder, population.train(design, sets, **{**OPTIONS, **options}))


def idle(client):
    """Wait until the cluster has nothing to do and holds nothing, which must be so within seconds."""
    for _ in range(100):
        tasks = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
        queues = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.extensions["queues"].queues.values())
        busy = client.run(lambda dask_worker: len(dask_worker.state.tasks))
        left = [*tasks, *(queue for queue in queues if queue.qsize()), *filter(None, busy.values())]
        if not left:
            return True
        time.sleep(0.1)
    raise AssertionError(left)


def kill(client, workers):
    """Kill worker processes, and wait until the cluster has noticed."""
    for process in client.run(os.getpid, workers=workers).values():
        os.kill(process, signal.SIGKILL)
    for _ in range(100):
        if not client.nthreads().keys() & set(workers):
            return
        time.sleep(0.1)
    raise AssertionError(f"{workers} live")


def whole(client):
    """Wait until both workers are there, and their nannies know: a worker that dies before that does not come back."""
    client.wait_for_workers(2, timeout=60)
    for _ in range(600):
        processes = [nanny.process for nanny in client.cluster.workers.values()]
        if all(process and process.status == distributed.Status.running for process in processes):
            return
        time.sleep(0.1)
    raise AssertionError(client.cluster)


def slow(model, worker):
    time.sleep(0.3)


@contextmanager
def failing(client, fails, times=1):
    """Have workers call `fails` with the number of a network, and themselves, before they send it `times` times."""

    def patch(dask_worker):
        from nwslib import population

        population.sound = population.train

        def train(design, images, **options):
            training = population.sound(design, images, **options)

            def some():
                for network in training:
                    fails(network["model"].item(), dask_worker)
                    yield from [network] * times

            return population.Training(training.design, training.parameters, training.implementation, some())

        population.train = train

    def mend():
        from nwslib import population

        population.train = getattr(population, "sound", population.train)

    whole(client)
    client.run(patch)
    try:
        yield
    finally:
        client.run(mend)


def test_the_population_is_the_same_as_on_one_machine(local, digits, tmp_path):
    design = designed(7)
    training = cluster.train(design, digits, client=local, rows_per_task=2, **OPTIONS)
    assert training.parameters == population.train(design, digits, **OPTIONS).parameters
    there = stored(tmp_path / "there", training)
    assert snapshots.same(there, on_one_machine(tmp_path / "here", design, digits)) == []
    assert idle(local)


def test_a_lost_worker_costs_no_network_and_doubles_none(mortal, digits, tmp_path):
    design = designed(10, batch_size=64)
    finished = []
    with failing(mortal, slow):
        for network in cluster.train(design, digits, client=mortal, rows_per_task=5, slots=1, **OPTIONS):
            finished.append(network)
            if len(finished) == 2:
                kill(mortal, list(mortal.nthreads())[:1])
    assert sorted(network["model"].item() for network in finished) == list(range(10))
    there = stored(tmp_path / "there", finished)
    assert snapshots.same(there, on_one_machine(tmp_path / "here", design, digits)) == []


def test_losing_every_worker_costs_no_network_that_had_arrived(mortal, digits, monkeypatch):
    runs, real = [], cluster._Run.close
    monkeypatch.setattr(cluster._Run, "close", lambda run: runs.append(run) or real(run))
    numbers, before = [], None
    design = designed(6, batch_size=64)
    with failing(mortal, slow):
        for network in cluster.train(design, digits, client=mortal, rows_per_task=6, slots=1, **OPTIONS):
            numbers.append(network["model"].item())
            if before is None:
                before = list(numbers)
                kill(mortal, list(mortal.nthreads()))
    assert sorted(numbers) == list(range(6))
    sent = [model for task in runs[0].arrived.values() for model in task]
    assert [sent.count(model) for model in before] == [1]


def test_a_network_that_is_sent_twice_counts_once(local, digits):
    with failing(local, lambda model, worker: None, times=2):
        training = cluster.train(designed(4), digits, client=local, **OPTIONS)
        assert sorted(network["model"].item() for network in training) == [0, 1, 2, 3]


def test_a_lost_scheduler_is_told(local, digits):
    with distributed.Client(local.scheduler.address, set_as_default=False) as other:
        training = cluster.train(designed(9), digits, client=other, rows_per_task=9, slots=1, **OPTIONS)
        next(training)
    with pytest.raises(ConnectionError, match="the scheduler is out of reach"):
        sum(1 for _ in training)
    # What was on its way to the client stays behind: some networks at most.
    local.run_on_scheduler(lambda dask_scheduler: dask_scheduler.extensions["queues"].queues.clear())
    assert idle(local)


def test_sets_may_be_loaded_by_the_workers_of_an_address(local, digits):
    loaders = {"digits": partial(images.load, "digits", size=16, train_limit=500, test_limit=50)}
    training = cluster.train(designed(2), loaders, client=local.scheduler.address, **OPTIONS)
    assert training.parameters["images"] == {"digits": digits["digits"].version}
    assert sorted(network["model"].item() for network in training) == [0, 1]
    assert local.status == "running"
    assert len(local.nthreads()) == 2


@pytest.mark.parametrize("taken", [0, 1])
def test_a_training_that_is_dropped_leaves_the_cluster_clean(local, digits, taken):
    with failing(local, lambda model, worker: time.sleep(0.5)):
        training = cluster.train(designed(80), digits, client=local, rows_per_task=40, slots=1, **OPTIONS)
        for _ in range(taken):
            next(training)
        del training
        assert idle(local)


def test_a_network_that_fails_does_not_take_others_with_it(local, digits, tmp_path):
    def fails(model, worker):
        if model == 3:
            raise FloatingPointError("the third is cursed\nsecond line")

    design = designed(6, batch_size=64)
    with failing(local, fails):
        training = cluster.train(design, digits, client=local, rows_per_task=6, retries=1, **OPTIONS)
        there = {network["model"].item(): network for network in training}
    assert sorted(there) == list(range(6))
    validate(there[3])
    assert there[3]["status"].item() == "failed"
    assert there[3]["reason"].item() == "FloatingPointError: the third is cursed"
    assert np.isnan(there[3]["weights"]).all()
    here = {one["model"].item(): one for one in population.train(design, digits, **OPTIONS)}
    assert [there[k]["id"].item() for k in range(6)] == [here[k]["id"].item() for k in range(6)]
    assert all(there[k]["weights"].variable.equals(here[k]["weights"].variable) for k in (0, 1, 2, 4, 5))
    nodes = stored(tmp_path, there.values()).children.values()
    assert [node["status"].values.tolist().count("failed") for node in nodes] == [1]


def test_a_worker_that_fails_in_everything_spoils_nothing(local, digits):
    whole(local)
    broken = next(iter(local.nthreads()))

    def fails(model, worker):
        if worker.address == broken:
            raise OSError("no space left")

    with failing(local, fails):
        training = cluster.train(designed(12), digits, client=local, rows_per_task=1, retries=1, **OPTIONS)
        assert [network["status"].item() for network in training] == ["stopped"] * 12


def test_a_task_does_not_wait_for_a_worker_that_is_gone(mortal, digits):
    whole(mortal)
    broken = next(iter(mortal.nthreads()))

    def fails(model, worker):
        if worker.address != broken:
            os.kill(os.getpid(), signal.SIGKILL)
        if not hasattr(worker, "failed"):
            worker.failed = True
            raise OSError("no space left")

    with failing(mortal, fails):
        (network,) = cluster.train(designed(1), digits, client=mortal, retries=60, **OPTIONS)
    assert network["status"].item() == "stopped"


def test_where_everything_fails_nothing_is_given_out(local, digits):
    def fails(model, worker):
        raise OSError("no space left")

    with failing(local, fails), pytest.raises(RuntimeError, match=r"8 networks .* OSError: no space left") as told:
        next(cluster.train(designed(20), digits, client=local, rows_per_task=4, retries=0, **OPTIONS))
    assert told.tb is not None  # a notebook keeps it too, and with it all that the training held
    assert idle(local)


def test_what_is_wrong_is_said_before_anything_is_trained(local, digits, bars):
    train = partial(cluster.train, designed(2), digits, client=local)
    with pytest.raises(ValueError, match=r"needs the image set 'digits'. Did you mean 'digit'"):
        cluster.train(designed(2), {"digit": digits["digits"]}, client=local)
    with pytest.raises(ValueError, match="a cluster trains networks of the family 'cnn', not 'siren'"):
        cluster.train(space.sample("siren", 2, seed=0), digits, client=local)
    with pytest.raises(ValueError, match="rows_per_task must be a whole number, at least 1, not 0"):
        train(rows_per_task=0)
    with pytest.raises(ValueError, match="retries must be a whole number, at least 0, not -1"):
        train(retries=-1)
    with pytest.raises(ValueError, match=r"unknown precision 'float31'. Did you mean 'float32'"):
        train(precision="float31", device="cpu")
    with pytest.raises(FileNotFoundError):
        cluster.train(designed(2), {"digits": partial(images.load, "svhn", root="no/such/folder")}, client=local)
    assert idle(local)


def test_workers_that_are_not_what_they_must_be_are_refused(local, digits, monkeypatch):
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as threads,
        pytest.raises(ValueError, match="runs 2 tasks at once: start workers of one thread"),
    ):
        cluster.train(designed(2), digits, client=threads.scheduler_address, device="cpu")
    monkeypatch.setattr(cluster, "__version__", "0.0.1")
    with pytest.raises(RuntimeError, match=r"nwslib: the cluster has .* but this machine has 0\.0\.1"):
        cluster.train(designed(2), digits, client=local, **OPTIONS)


def test_workers_of_another_device_than_this_machine_need_a_word(local, digits, monkeypatch):
    monkeypatch.setattr(cluster, "resolve_device", lambda device: torch.device("cuda"))
    with pytest.raises(RuntimeError, match="device: the cluster has cpu, but this machine has cuda: say which device="):
        cluster.train(designed(2), digits, client=local)
    assert sum(1 for _ in cluster.train(designed(2), digits, client=local, **OPTIONS)) == 2


def test_each_worker_of_a_machine_takes_a_gpu_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"GPU-{number}"))
    monkeypatch.setattr(cluster, "_locks", held := [])
    try:
        # Each call of the function itself, without its cache, stands for another process.
        assert [str(cluster._own_gpu.__wrapped__()) for _ in range(2)] == ["cuda:0", "cuda:1"]
        with pytest.raises(RuntimeError, match="each of the 2 GPUs of this machine has a worker"):
            cluster._own_gpu.__wrapped__()
        held.pop(0).close()
        assert str(cluster._own_gpu.__wrapped__()) == "cuda:0"
    finally:
        for lock in held:
            lock.close()


def test_image_sets_that_differ_between_workers_are_refused(local):
    def either():
        return images.load("digits", size=16, train_limit=500 + pids.index(os.getpid()))

    whole(local)
    pids = list(local.run(os.getpid).values())
    with pytest.raises(RuntimeError, match=r"image set 'digits': worker .* has .*, but worker .* has"):
        cluster.train(designed(2), {"digits": either}, client=local, **OPTIONS)


def test_a_cluster_of_its_own_is_started_and_closed(digits):
    before = set(distributed.LocalCluster._instances)
    training = cluster.train(designed(2), digits, **OPTIONS)
    (own,) = set(distributed.LocalCluster._instances) - before
    assert [network["model"].item() for network in training] != []
    assert own.status == distributed.Status.closed


def test_a_worker_of_its_own_that_is_lost_may_take_its_time_to_come_back(digits):
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1 ms"}):
        training = cluster.train(designed(2), digits, **OPTIONS)
        assert dask.config.get("distributed.deploy.lost-worker-timeout") == cluster.RETURN
        assert sum(1 for _ in training) == 2
        assert dask.config.get("distributed.deploy.lost-worker-timeout") == "1 ms"


@pytest.mark.slow
def test_a_cluster_of_its_own_that_loses_its_workers_for_good_is_given_up(digits, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    before = set(distributed.LocalCluster._instances)
    training = cluster.train(designed(400), digits, slots=1, rows_per_task=400, **OPTIONS)
    (own,) = set(distributed.LocalCluster._instances) - before
    next(training)
    own.scale(0)
    with pytest.raises(RuntimeError, match="every worker is gone, and none has come back"):
        sum(1 for _ in training)
    assert own.status == distributed.Status.closed


def test_tasks_hold_one_shape_each_row_once_and_the_longest_come_first():
    design = space.complete(space.sample("nws_main", 60, seed=0, dataset=["digits", "textures"]))
    counts = {"digits": 100, "textures": 1000}
    for workers, most in ((1, None), (8, None), (500, None), (8, 3)):
        tasks = cluster._cut(design, counts, workers, most)
        assert sorted(model for task in tasks for model in task.models) == list(range(60))
        assert [task.priority for task in tasks] == sorted((task.priority for task in tasks), reverse=True)
        for task in tasks:
            shapes = design.isel(model=list(task.models))
            assert all(len(np.unique(shapes[name])) == 1 for name in (*space.ARCHITECTURE, "batch_size"))
            assert len(task.models) <= (most or 60)
    first = design.isel(model=list(cluster._cut(design, counts, 8, 1)[0].models))
    assert "textures" in first["dataset"]
    fixed = space.complete(space.sample("nws_fixed", 1000, seed=0, dataset="digits", batch_size=64))
    assert len(cluster._cut(fixed, counts, 1, None)) == 1
    assert 8 <= len(cluster._cut(fixed, counts, 4, None)) <= 20


def test_the_cost_of_a_network_is_that_of_its_layers():
    fixed = ("cnn", 32, 5, 3, 2, 8, 128)
    convolutions = 25 * (3 * 8 * 32**2 + 8 * 16 * 16**2 + 16 * 32 * 8**2)
    assert cluster._operations(fixed) == convolutions + 512 * 128 + 128 * 64 + 64 * 20
