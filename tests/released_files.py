"""Small files in the true formats of released sets, written without the library that reads them."""

import csv
import gzip

import numpy as np

# ---- the NWS release: TensorFlow variables in the order of creation, raw float64 ----

NWS_COLUMNS = [
    *("dataset", "lrate", "batch_size", "batch_norm", "augmentation", "optimizer", "activation", "initialization"),
    *("filter_size", "depth_conv", "depth_fc", "width_conv", "width_fc", "weightn_conv", "weightn_fc", "path"),
]
TINY = {"filter_size": 3, "depth_conv": 3, "depth_fc": 2, "width_conv": 1, "width_fc": 8}
BLOCKS = {3: (1, 1, 1), 4: (1, 1, 2), 5: (1, 2, 2)}


def variables(seed, filter_size=3, depth_conv=3, depth_fc=2, width_conv=1, width_fc=8, image_size=32):
    """Draw the variables of one network: a list of layers, each a dict of float32 arrays as TensorFlow holds them."""
    random = np.random.default_rng(seed)

    def layer(kernel, norm=True):
        out = kernel[-1]
        drawn = {"kernel": 0.3 * random.standard_normal(kernel), "bias": random.standard_normal(out)}
        if norm:
            drawn |= {"beta": random.standard_normal(out), "gamma": random.uniform(0.5, 2, out)}
            drawn |= {"mean": random.standard_normal(out), "variance": random.uniform(0.5, 2, out)}
        return {name: values.astype("float32") for name, values in drawn.items()}

    layers, channels = [], 3
    for block, count in enumerate(BLOCKS[depth_conv]):
        for _ in range(count):
            layers.append(layer((filter_size, filter_size, channels, width_conv * 2**block)))
            channels = width_conv * 2**block
    inputs = (image_size // 8) ** 2 * channels
    for number in range(depth_fc):
        layers.append(layer((inputs, width_fc // 2**number)))
        inputs = width_fc // 2**number
    return [*layers, layer((inputs, 20), norm=False)]


def vector(layers):
    """Write variables one after the other: a kernel output by output, in it input by input, in it row by row."""
    found = []
    for layer in layers:
        for values in layer.values():
            if values.ndim == 4:
                found += [values[:, :, i, o].ravel() for o in range(values.shape[3]) for i in range(values.shape[2])]
            else:
                found += [values[:, o] for o in range(values.shape[1])] if values.ndim == 2 else [values]
    return np.concatenate(found).astype("float64")


def forward(layers, depth_conv, images, activation):
    """Compute the outputs for images (b, y, x, c), with the stored moments; in float64."""
    act = {
        "relu": lambda x: np.maximum(x, 0),
        "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "tanh": np.tanh,
    }[activation]

    def norm(x, one):
        return (x - one["mean"]) / np.sqrt(one["variance"] + 1e-5) * one["gamma"] + one["beta"]

    layers = [{name: values.astype("float64") for name, values in layer.items()} for layer in layers]
    x, place = images, 0
    for count in BLOCKS[depth_conv]:
        for one in layers[place : place + count]:
            pad = one["kernel"].shape[0] // 2
            windows = np.lib.stride_tricks.sliding_window_view(
                np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))), one["kernel"].shape[:2], axis=(1, 2)
            )  # (b, y, x, c, ky, kx)
            x = act(norm(np.einsum("byxijk,jkio->byxo", windows, one["kernel"]) + one["bias"], one))
        place += count
        b, side, _, c = x.shape
        x = x.reshape(b, side // 2, 2, side // 2, 2, c).max((2, 4))
    x = x.reshape(len(x), -1)
    for one in layers[place:-1]:
        x = norm(act(x @ one["kernel"] + one["bias"]), one)
    return x @ layers[-1]["kernel"] + layers[-1]["bias"]


def nws_row(path="0001", **values):
    """Give a row of a CSV, as the release writes it; the sizes are those of the layers."""
    shape = {name: values.get(name, TINY[name]) for name in TINY}
    layers = variables(0, **shape, image_size=values.pop("image_size", 32))
    sizes = [vector(part).size for part in (layers[: shape["depth_conv"]], layers[shape["depth_conv"] :])]
    row = {"dataset": "mnist", "lrate": 0.001, "batch_size": 64, "batch_norm": True, "augmentation": False}
    row |= {"optimizer": 0, "activation": 0, "initialization": 2, **shape}
    row |= {"weightn_conv": sizes[0], "weightn_fc": sizes[1], "path": path}
    return row | values


def nws_csv(file, rows, columns=NWS_COLUMNS):
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def nws_network(folder, snapshots, errors, seconds=12.5, steps_per_epoch=7):
    """Write the files of one network: 20 vectors, and percentages (evaluation, 3) of train, valid and test."""
    (folder / "weights").mkdir(parents=True)
    for number, weights in enumerate(snapshots, start=1):
        np.asarray(weights, "<f8").tofile(folder / "weights" / f"{number:03d}.bin")
    evaluations = len(errors)
    table = np.zeros((evaluations, 5))
    table[:, 0] = np.arange(evaluations) * steps_per_epoch
    table[:, 1:4] = errors
    table[:, 4] = errors[:, 1]
    table.astype("<f8").tofile(folder / "error.bin")
    last = table[-1, 0]
    np.array([evaluations, last, last / steps_per_epoch, seconds], "<f8").tofile(folder / "stat.bin")


def nws_folder(root, rows, evaluations=23):
    """Write the networks of some rows; the shape may differ from row to row. Gives the vectors, by path."""
    held = {}
    for seed, row in enumerate(rows):
        shape = {name: int(row[name]) for name in TINY}
        held[row["path"]] = np.stack([vector(variables(100 * seed + number, **shape)) for number in range(20)])
        errors = np.random.default_rng(seed).uniform(0, 100, (evaluations, 3))
        nws_network(root / row["path"], held[row["path"]], errors)
    return held


# ---- the Small CNN Zoo: a float32 matrix, one row per checkpoint ----

ZOO_TENSORS = {
    "sequential/conv2d/bias:0": (16,),
    "sequential/conv2d/kernel:0": (3, 3, 1, 16),
    "sequential/conv2d_1/bias:0": (16,),
    "sequential/conv2d_1/kernel:0": (3, 3, 16, 16),
    "sequential/conv2d_2/bias:0": (16,),
    "sequential/conv2d_2/kernel:0": (3, 3, 16, 16),
    "sequential/dense/bias:0": (10,),
    "sequential/dense/kernel:0": (16, 10),
}
ZOO_EPOCHS = (0, 1, 2, 3, 20, 40, 60, 80, 86)


def zoo_rows(networks, seed=0):
    """Give rows of the table, checkpoint by checkpoint, with columns in the order of the release."""
    random = np.random.default_rng(seed)
    for network in range(networks):
        config = {
            "config.activation": random.choice(["relu", "tanh"]),
            "config.b_init": "zeros",
            "config.dataset": "fashion_mnist",
            "config.dnn_architecture": "cnn",
            "config.dropout": random.uniform(0, 0.5),
            "config.epochs": 86,
            "config.epochs_between_checkpoints": 20,
            "config.init_std": random.uniform(0.01, 0.5),
            "config.l2reg": 10 ** random.uniform(-8, -2),
            "config.learning_rate": 10 ** random.uniform(-4, -1),
            "config.num_layers": 3,
            "config.num_units": 16,
            "config.optimizer": random.choice(["adam", "sgd", "rmsprop"]),
            "config.random_seed": 42,
            "config.train_fraction": random.choice([0.1, 0.25, 0.5, 1.0]),
            "config.w_init": random.choice(["he_normal", "glorot_normal", "RandomNormal"]),
            "modeldir": f"/somewhere/runs/{network}",
        }
        for epoch in ZOO_EPOCHS:
            yield {"": f"/somewhere/runs/{network}/permanent_ckpt-{epoch}", **config, "step": epoch} | {
                "test_accuracy": random.uniform(0.1, 0.9),
                "test_loss": random.uniform(0.1, 2.3),
                "train_accuracy": random.uniform(0.1, 0.9),
                "train_loss": random.uniform(0.1, 2.3),
                "laststep": epoch == 86,
            }


def zoo_folder(folder, rows, tensors=ZOO_TENSORS, seed=0):
    """Write the three files; gives the tensors of each row, as TensorFlow holds them."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    held = [{name: random.standard_normal(shape).astype("float32") for name, shape in tensors.items()} for _ in rows]
    np.save(folder / "weights.npy", np.stack([np.concatenate([own.ravel() for own in one.values()]) for one in held]))
    with gzip.open(folder / "metrics.csv.gz", "wt", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with (folder / "layout.csv").open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["", "varname", "start_idx", "end_idx", "size", "shape"])
        start = 0
        for number, (name, shape) in enumerate(tensors.items()):
            size = int(np.prod(shape))
            writer.writerow([number, name, start, start + size, size, shape])
            start += size
    return held
