import gzip
import hashlib
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn

from nwslib import space
from nwslib.population import _embedded, _torchvision, images
from nwslib.population.device import resolve_device
from nwslib.population.images import Counts, load, load_all, protocol_images, resize_bilinear
from nwslib.space import EMBEDDED_SETS, PUBLISHED_SETS

SHARED = Path(__file__).parents[2] / "shared" / "datasets"
needs_real_files = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")


# The size of the images


def test_bilinear_resize_gives_the_values_computed_by_hand():
    square = torch.tensor([[0, 8], [16, 40]]).reshape(1, 2, 2, 1)
    by_hand = torch.tensor([[0, 4, 8, 8], [8, 16, 24, 24], [16, 28, 40, 40], [16, 28, 40, 40]])
    assert torch.equal(resize_bilinear(square, 4)[0, :, :, 0], by_hand.float())


def test_bilinear_resize_has_no_half_pixel_offset_and_clamps_at_the_edge():
    ramp = (8 * torch.arange(28)).reshape(1, 1, 28, 1).expand(1, 28, 28, 3)
    row = resize_bilinear(ramp, 32)[0, 5, :, 1]
    assert torch.equal(row[:31], 7.0 * torch.arange(31))  # 8 * (n * 28 / 32)
    assert row[31] == 8 * 27  # 27.125 lies beyond the last pixel


def test_images_of_32_pixels_are_kept_as_they_are():
    image = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(protocol_images(image, 32), image)


def test_96_pixels_become_32_by_the_mean_of_3x3():
    image = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = protocol_images(image, 32)
    mean = image[1, 30:33, 3:6, 2].double().mean()
    assert small[1, 10, 1, 2] == torch.round(mean)


def test_16_pixels_are_the_mean_of_2x2_of_the_32_pixel_image():
    image = torch.randint(0, 256, (3, 28, 28, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    large = protocol_images(image, 32).numpy().astype(float)
    mean = (large[:, ::2, ::2] + large[:, 1::2, ::2] + large[:, ::2, 1::2] + large[:, 1::2, 1::2]) / 4
    assert np.array_equal(protocol_images(image, 16).numpy(), np.floor(mean + 0.5))


def test_28_pixels_stay_as_published_and_others_are_resized_from_32():
    image = torch.randint(0, 256, (3, 28, 28, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(protocol_images(image, 28), image.expand(-1, -1, -1, 3))
    ramp = (8 * torch.arange(32, dtype=torch.uint8)).reshape(1, 1, 32, 1).expand(1, 32, 32, 3)
    by_hand = np.floor(8 * np.arange(28) * 32 / 28 + 0.5)
    assert np.array_equal(protocol_images(ramp, 28)[0, 5, :, 1].numpy(), by_hand)


def test_14_pixels_are_the_mean_of_2x2_of_the_28_pixel_image():
    for side in (8, 28, 32, 96):
        image = torch.randint(0, 256, (2, side, side, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        large = protocol_images(image, 28).numpy().astype(float)
        mean = (large[:, ::2, ::2] + large[:, 1::2, ::2] + large[:, ::2, 1::2] + large[:, 1::2, 1::2]) / 4
        assert np.array_equal(protocol_images(image, 14).numpy(), np.floor(mean + 0.5))


def test_the_space_knows_which_sets_are_grey():
    assert {name: card.grey for name, card in images._CARDS.items()} == {
        name: space.channels(name) == 1 for name in images._CARDS
    }


def test_an_image_does_not_depend_on_those_beside_it(monkeypatch):
    image = torch.randint(0, 256, (7, 28, 28, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together = protocol_images(image, 16)
    monkeypatch.setattr(images, "_CHUNK", 3)
    assert torch.equal(protocol_images(image, 16), together)


# The embedded sets


@pytest.fixture(scope="module")
def embedded():
    return {name: load(name, size=16) for name in EMBEDDED_SETS}


@pytest.mark.parametrize("name", EMBEDDED_SETS)
def test_an_embedded_set_is_large_balanced_and_well_formed(embedded, name):
    found = embedded[name]
    assert len(found.train_images) + len(found.test_images) >= 1500
    assert len(found.classes) == 10
    for pixels, labels in ((found.train_images, found.train_labels), (found.test_images, found.test_labels)):
        assert pixels.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert pixels.shape == (len(labels), 16, 16, 3)
        counts = torch.bincount(labels, minlength=10)
        assert len(counts) == 10
        assert counts.min() > 0.9 * counts.max()


@pytest.mark.parametrize("name", EMBEDDED_SETS)
def test_grey_says_whether_the_channels_are_equal(embedded, name):
    pixels = embedded[name].train_images
    assert bool((pixels == pixels[..., :1]).all()) == embedded[name].grey


@pytest.mark.parametrize("name", EMBEDDED_SETS)
def test_an_embedded_set_is_the_same_at_every_call(embedded, name):
    assert load(name, size=16).version == embedded[name].version


@pytest.mark.parametrize("name", EMBEDDED_SETS)
def test_no_training_image_is_a_test_image(embedded, name):
    train = {image.numpy().tobytes() for image in embedded[name].train_images}
    assert not [image for image in embedded[name].test_images if image.numpy().tobytes() in train]


def test_textures_are_the_same_on_every_machine():
    # Arithmetic alone makes them. A new hash here makes every network trained on them another network.
    assert load("textures").version == "01467480f81178d0"


def test_digits_are_all_of_scikit_learns():
    from sklearn.datasets import load_digits

    train, train_labels, test, test_labels = _embedded.digits()
    ours = Counter(
        (image.tobytes(), int(label))
        for image, label in zip(np.concatenate([train, test]), np.concatenate([train_labels, test_labels]), strict=True)
    )
    scans = load_digits()
    theirs = Counter(
        (np.rint(image * 255 / 16).astype("uint8").tobytes(), int(label))
        for image, label in zip(scans.images, scans.target, strict=True)
    )
    assert ours == theirs
    assert (len(train), len(test)) == (1437, 360)


def test_patches_for_training_and_testing_share_no_pixel():
    areas = [(name, area, split) for name, *both in _embedded.REGIONS.values() for split, area in enumerate(both)]
    for name, (top, bottom, left, right), split in areas:
        assert 0 <= top <= bottom - 32
        assert bottom <= 427
        assert 0 <= left <= right - 32
        assert right <= 640
        for other, (above, below, before, after), side in areas:
            apart = bottom <= above or below <= top or right <= before or after <= left
            assert apart or name != other or split == side


def test_embedded_sets_work_without_torchvision():
    program = """
import sys
sys.modules["torchvision"] = None  # an import of it fails from here on
from nwslib.population.images import load
print(len(load("digits").train_images))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.stdout == "1437\n", finished.stderr


def _test_accuracy(found, train_labels, epochs):
    """Train a small network, 4-8-16 channels, and give the share of test images that it names correctly."""
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
        for i, o in ((3, 4), (4, 8), (8, 16))
    ]
    network = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    train, test = (pixels.permute(0, 3, 1, 2) / 255 for pixels in (found.train_images, found.test_images))
    for _ in range(epochs):
        for batch in torch.randperm(len(train)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(train[batch]), train_labels[batch]).backward()
            optimizer.step()
    network.eval()
    with torch.no_grad():
        return (network(test).argmax(1) == found.test_labels).float().mean().item()


@pytest.mark.parametrize("name", EMBEDDED_SETS)
def test_a_small_network_learns_an_embedded_set(embedded, name):
    assert _test_accuracy(embedded[name], embedded[name].train_labels, epochs=12) > 0.5


def test_nothing_is_learned_from_shuffled_labels(embedded):
    labels = embedded["digits"].train_labels
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    assert _test_accuracy(embedded["digits"], shuffled, epochs=6) < 0.25


# Names, limits and other arguments


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifr10", {}, "unknown image set 'cifr10'. Did you mean 'cifar10'"),
        ("digits[test]", {}, r"digits has no part 'digits\[test\]'. Did you mean 'digits'"),
        ("kmnist[train]", {}, r"Did you mean 'kmnist\[test\]'"),
        ("cifar10[batches 1,2]", {}, r"Did you mean 'cifar10\[batches 1-2\]'"),
        ("cifar10[batches 6]", {}, "cifar10 has no part"),
        ("digits", {"size": 24}, "size must be 14, 16, 28 or 32, not 24. The nearest is 28"),
        ("digits", {"device": "cuda:99"}, "device 'cuda:99' is not available here"),
        ("digits", {"train_limit": 0}, "train_limit must be from 1 to the 1437 train images of digits, not 0"),
        ("digits", {"test_limit": 361}, "test_limit must be from 1 to the 360 test images of digits, not 361"),
        ("kmnist[test]", {"train_limit": 8001}, "from 1 to the 8000 train images"),
        ("cifar10[batches 2,4-5]", {"train_limit": 30001}, "from 1 to the 30000 train images"),
        ("mnist", {"train_limit": 55001}, "from 1 to the 55000 train images"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        load(name, **options)


def test_limits_give_the_first_images_and_another_version(embedded):
    whole, part = embedded["glyphs"], load("glyphs", size=16, train_limit=30, test_limit=7)
    assert torch.equal(part.train_images, whole.train_images[:30])
    assert torch.equal(part.test_labels, whole.test_labels[:7])
    assert part.version != whole.version
    assert torch.bincount(part.train_labels).tolist() == [3] * 10


def test_the_version_is_the_hash_of_shapes_and_bytes(embedded):
    found = embedded["digits"]
    digest = hashlib.sha256()
    for tensor in (found.train_images, found.train_labels, found.test_images, found.test_labels):
        digest.update(str(tuple(tensor.shape)).encode() + tensor.numpy().tobytes())
    assert found.version == digest.hexdigest()[:16]


def test_load_all_gives_each_name_once_in_order():
    found = load_all(np.array(["textures", "digits", "patches", "digits"]), size=16, train_limit=20, device="cpu")
    assert list(found) == ["digits", "patches", "textures"]
    assert all(len(image_set.train_images) == 20 for image_set in found.values())


def test_load_all_refuses_before_it_reads(monkeypatch, tmp_path):
    read = []
    monkeypatch.setitem(images._EMBEDDED, "digits", lambda: read.append("digits"))
    with pytest.raises(ValueError, match="Did you mean 'textures'"):
        load_all(["digits", "texture"])
    with pytest.raises(FileNotFoundError, match="svhn"):
        load_all(["digits", "svhn"], root=tmp_path)
    assert not read


def test_every_set_has_a_card_and_counts():
    assert set(images._CARDS) == set(images.COUNTS) == {*PUBLISHED_SETS, *EMBEDDED_SETS}
    assert all(len(card.classes) == 10 for card in images._CARDS.values())


# Published sets, from tiny files in the true formats


def _pixels(count, side, channels, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype="uint8")


def _write_idx(folder, split, pixels, labels):
    folder = folder / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for content, array in (("images-idx3", pixels), ("labels-idx1", labels)):
        header = np.array([0x0800 + array.ndim, *array.shape], dtype=">i4").tobytes()
        (folder / f"{split}-{content}-ubyte").write_bytes(header + array.tobytes())


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """The path of a data root with an MNIST of 12 training and 10 test images, declared to be complete."""
    _write_idx(tmp_path / "MNIST", "train", _pixels(12, 28, 1, 0)[..., 0], np.arange(12, dtype="uint8") % 10)
    _write_idx(tmp_path / "MNIST", "t10k", _pixels(10, 28, 1, 1)[..., 0], np.arange(10, dtype="uint8"))
    monkeypatch.setitem(images.COUNTS, "mnist", Counts(12, 10, left_out=5))
    return tmp_path


def test_mnist_leaves_out_the_first_training_images(tiny_mnist):
    found = load("mnist", root=tiny_mnist)
    raw = torch.from_numpy(_pixels(12, 28, 1, 0))
    assert found.train_labels.tolist() == [5, 6, 7, 8, 9, 0, 1]
    assert torch.equal(found.train_images, protocol_images(raw, 32)[5:])
    assert found.test_labels.tolist() == list(range(10))
    assert (found.name, found.grey, found.kind) == ("mnist", True, "scans")


def test_the_test_images_alone_are_split_eight_to_two(tiny_mnist):
    for file in (tiny_mnist / "MNIST" / "raw").glob("train-*"):
        file.unlink()
    found = load("mnist[test]", root=tiny_mnist)
    assert found.name == "mnist[test]"
    assert found.train_labels.tolist() == list(range(8))
    assert found.test_labels.tolist() == [8, 9]
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.*missing.*the part .*, 'mnist\[test\]'"):
        load("mnist", root=tiny_mnist)


def test_a_small_copy_is_not_the_published_set(tiny_mnist, monkeypatch):
    monkeypatch.setitem(images.COUNTS, "mnist", Counts(60_000, 10_000, left_out=5_000))
    with pytest.raises(ValueError, match="mnist: 10 test images, but the published set has 10000"):
        load("mnist", root=tiny_mnist)
    monkeypatch.setitem(images.COUNTS, "mnist", Counts(60_000, 10, left_out=5_000))
    with pytest.raises(ValueError, match="mnist: 12 training images, but the published set has 60000"):
        load("mnist", root=tiny_mnist)


@pytest.mark.parametrize("file", ["t10k-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize("kept", [0, 6, 17])
def test_a_truncated_file_is_named_as_damage(tiny_mnist, file, kept):
    path = tiny_mnist / "MNIST" / "raw" / file
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"mnist: its files under .* are damaged"):
        load("mnist", root=tiny_mnist)


def test_a_compressed_file_under_the_wrong_name_is_named_as_damage(tiny_mnist):
    path = tiny_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match="damaged"):
        load("mnist", root=tiny_mnist)


def test_old_copies_of_another_format_are_not_opened(tiny_mnist):
    processed = tiny_mnist / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(12, 28, 28, dtype=torch.uint8), torch.zeros(12, dtype=torch.int64)), processed / name)
    assert load("mnist", root=tiny_mnist).train_images.any()


def test_images_and_labels_must_be_as_many(tiny_mnist):
    _write_idx(tiny_mnist / "MNIST", "t10k", _pixels(10, 28, 1, 1)[..., 0], np.arange(9, dtype="uint8"))
    with pytest.raises(ValueError, match="10 test images but 9 labels"):
        load("mnist", root=tiny_mnist)


def test_labels_must_name_one_of_ten_classes(tiny_mnist):
    _write_idx(tiny_mnist / "MNIST", "t10k", _pixels(10, 28, 1, 1)[..., 0], np.arange(1, 11, dtype="uint8"))
    with pytest.raises(ValueError, match="test labels from 1 to 10, but there are 10 classes"):
        load("mnist", root=tiny_mnist)


@pytest.mark.parametrize(("name", "folder"), [("fashion", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_the_other_idx_sets_are_read_from_their_own_folders(tiny_mnist, monkeypatch, name, folder):
    (tiny_mnist / "MNIST").rename(tiny_mnist / folder)
    monkeypatch.setitem(images.COUNTS, name, Counts(12, 10))
    assert load(name, root=tiny_mnist).train_labels.tolist() == [*range(10), 0, 1]
    assert load(f"{name}[test]", root=tiny_mnist).test_labels.tolist() == [8, 9]


def _md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def tiny_cifar(tmp_path, monkeypatch):
    """The path of a data root with a CIFAR-10 of four images per batch; batch n has the labels n."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for n in range(6):
        rows = _pixels(4, 32, 3, n).transpose(0, 3, 1, 2).reshape(4, -1)  # 1024 red, 1024 green, 1024 blue
        name = f"data_batch_{n}" if n else "test_batch"
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": [n] * 4}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    cifar = _torchvision.datasets.CIFAR10
    train = [[f"data_batch_{n}", _md5(folder / f"data_batch_{n}")] for n in range(1, 6)]
    monkeypatch.setattr(cifar, "train_list", train)
    monkeypatch.setattr(cifar, "test_list", [["test_batch", _md5(folder / "test_batch")]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": _md5(folder / "batches.meta")})
    monkeypatch.setitem(images.COUNTS, "cifar10", Counts(20, 4))
    return tmp_path


def test_cifar10_is_read_whole(tiny_cifar):
    found = load("cifar10", root=tiny_cifar)
    assert found.train_labels.tolist() == [n for n in range(1, 6) for _ in range(4)]
    assert torch.equal(found.train_images[4:8], torch.from_numpy(_pixels(4, 32, 3, 2)))
    assert not found.grey
    assert found.classes[3] == "cat"


@pytest.mark.parametrize(
    ("name", "labels"), [("batches 1", {1}), ("batches 1-2", {1, 2}), ("batches 2,4-5", {2, 4, 5})]
)
def test_a_part_of_cifar10_has_the_batches_of_its_name_and_all_test_images(tiny_cifar, name, labels):
    for n in {1, 2, 3, 4, 5} - labels:
        (tiny_cifar / "cifar-10-batches-py" / f"data_batch_{n}").unlink()
    found = load(f"cifar10[{name}]", root=tiny_cifar)
    assert found.name == f"cifar10[{name}]"
    assert found.train_labels.tolist() == [n for n in sorted(labels) for _ in range(4)]
    assert found.test_labels.tolist() == [0] * 4
    with pytest.raises(FileNotFoundError, match=rf"the part that is there, 'cifar10\[{name}\]'"):
        load("cifar10", root=tiny_cifar)


def test_cifar10_without_its_test_images_is_no_part(tiny_cifar):
    (tiny_cifar / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar10: cifar-10-batches-py/test_batch missing .*download=True"):
        load("cifar10", root=tiny_cifar)


def test_a_pickle_whose_checksum_is_wrong_is_never_opened(tiny_cifar):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tiny_cifar / "executed",)

    (tiny_cifar / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="damaged"):
        load("cifar10", root=tiny_cifar)
    assert not (tiny_cifar / "executed").exists()


def test_svhn_labels_run_from_0_to_9(tmp_path, monkeypatch):
    from scipy.io import savemat

    svhn = _torchvision.datasets.SVHN
    for split, count in (("train", 10), ("test", 3)):
        pixels = _pixels(count, 32, 3, count).transpose(1, 2, 3, 0)
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": pixels, "y": np.arange(1, count + 1, dtype="uint8")[:, None]})
        monkeypatch.setitem(svhn.split_list, split, ["", path.name, _md5(path)])
    monkeypatch.setitem(images.COUNTS, "svhn", Counts(10, 3))
    found = load("svhn", root=tmp_path)
    assert found.train_labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert torch.equal(found.train_images, torch.from_numpy(_pixels(10, 32, 3, 10)))


def test_stl10_needs_no_unlabelled_images_and_is_shrunk_by_means(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    stl10 = _torchvision.datasets.STL10
    for split, count in (("train", 10), ("test", 3)):
        stored = _pixels(count, 96, 3, count).transpose(0, 3, 2, 1)  # (b, c, x, y): column by column
        (folder / f"{split}_X.bin").write_bytes(stored.tobytes())
        (folder / f"{split}_y.bin").write_bytes(np.arange(1, count + 1, dtype="uint8").tobytes())
        files = [[path.name, _md5(path)] for path in (folder / f"{split}_X.bin", folder / f"{split}_y.bin")]
        unlabelled = [["unlabeled_X.bin", "0" * 32]] if split == "train" else []
        monkeypatch.setattr(stl10, f"{split}_list", [*files, *unlabelled])
    monkeypatch.setitem(images.COUNTS, "stl10", Counts(10, 3))
    found = load("stl10", root=tmp_path)
    assert found.train_labels.tolist() == list(range(10))
    assert torch.equal(found.test_images, protocol_images(torch.from_numpy(_pixels(3, 96, 3, 3)), 32))


# The data root and downloads


@pytest.mark.parametrize("name", PUBLISHED_SETS)
def test_a_missing_root_is_named_with_the_way_out(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=rf"{name}: the data root '.*nowhere' does not exist; .*download=True"):
        load(name, root=tmp_path / "nowhere")


def test_the_root_comes_from_the_environment(tiny_mnist, monkeypatch):
    monkeypatch.setenv("NWS_DATA", str(tiny_mnist))
    by_variable = load("mnist")
    monkeypatch.delenv("NWS_DATA")
    monkeypatch.setenv("NWS_HOME", str(tiny_mnist.parent))
    assert load("mnist", root=tiny_mnist.name).version == by_variable.version
    monkeypatch.chdir(tiny_mnist)
    with pytest.raises(FileNotFoundError, match="data' does not exist"):
        load("mnist")
    (tiny_mnist.parent / "data").symlink_to(tiny_mnist)
    assert load("mnist").version == by_variable.version


def test_a_download_that_fails_is_one_sentence(tmp_path, monkeypatch):
    def refuse(self):
        raise URLError("no route to host")

    monkeypatch.setattr(_torchvision.datasets.MNIST, "download", refuse)
    with pytest.raises(OSError, match=r"kmnist: the download to .* failed: .*no route to host"):
        load("kmnist", root=tmp_path, download=True)


def test_a_damaged_file_that_cannot_be_fetched_anew_is_a_failed_download(tiny_cifar, monkeypatch):
    def refuse(*arguments, **options):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    (tiny_cifar / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"")
    with pytest.raises(OSError, match=r"the download to .* failed: .*no route"):
        load("cifar10", root=tiny_cifar, download=True)


def test_what_is_complete_is_not_downloaded_again(tiny_mnist, monkeypatch):
    def refuse(*arguments, **options):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    assert len(load("mnist", root=tiny_mnist, download=True).train_images) == 7


@needs_real_files
@pytest.mark.parametrize("name", ["mnist[test]", "kmnist[test]", "fashion[test]"])
def test_the_real_test_images_are_read(name):
    found = load(name, size=16, root=SHARED)
    labels = torch.cat([found.train_labels, found.test_labels])
    assert (len(found.train_labels), len(found.test_labels)) == (8000, 2000)
    published = {"mnist[test]": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]}.get(name, [1000] * 10)
    assert torch.bincount(labels).tolist() == published


@needs_real_files
def test_the_real_mnist_is_tensorflows():
    found = load("mnist", size=16, root=SHARED, test_limit=1)
    assert len(found.train_images) == 55_000
    assert found.train_labels[:5].tolist() == [7, 3, 4, 6, 1]
    assert abs(found.train_images.float().mean() / 255 - 0.1307) < 0.003


@needs_real_files
def test_the_real_cifar10_is_read_only_as_the_part_that_it_is():
    with pytest.raises(FileNotFoundError, match=r"data_batch_3.*'cifar10\[batches 1-2\]'"):
        load("cifar10", root=SHARED)
    found = load("cifar10[batches 1-2]", size=16, root=SHARED)
    counts = [1989, 1981, 2042, 2011, 2009, 1925, 2038, 2027, 2012, 1966]
    assert torch.bincount(found.train_labels).tolist() == counts
    assert torch.bincount(found.test_labels).tolist() == [1000] * 10


# torchvision beside a torch without CUDA


def test_the_data_sets_of_torchvision_can_be_imported():
    from nwslib.population._torchvision import datasets

    assert datasets.MNIST.__module__ == "torchvision.datasets.mnist"


@pytest.fixture
def declared(monkeypatch):
    """The operators declared from here on, in a process that has declared none."""
    names = []

    class Library:
        def __init__(self, *names):
            pass

        def define(self, schema):
            names.append(schema.split("(")[0])

    monkeypatch.setattr(_torchvision, "_declared", [])
    monkeypatch.setattr(_torchvision.torch.library, "Library", Library)
    return names


@pytest.mark.parametrize("message", ["operator torchvision::roi_align does not exist", "another reason"])
def test_another_error_at_import_is_not_swallowed(monkeypatch, declared, message):
    def fail(name):
        raise RuntimeError(message)

    monkeypatch.setattr(_torchvision.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match=message):
        _torchvision.import_datasets()
    assert not declared


def test_the_known_error_is_answered_once(monkeypatch, declared):
    tried = []

    def fail(name):
        tried.append(name)
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(_torchvision.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="nms does not exist"):
        _torchvision.import_datasets()
    assert len(tried) == 2
    assert declared == ["nms", "qnms"]


# The device


def test_auto_is_a_device_of_this_machine():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:1", "meta"])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(
        ValueError, match=f"device '{device}' is not available here. (Did you mean|Known: 'auto', 'cpu')"
    ):
        resolve_device(device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_images_lie_on_the_device_asked_for():
    found = load("digits", device="cuda", train_limit=10)
    assert found.train_images.device.type == found.test_labels.device.type == "cuda"
    assert found.version == load("digits", train_limit=10).version


def test_a_design_names_its_image_sets_size_and_limits():
    design = space.sample("nws_small", 8, seed=0, dataset=["digits", "textures"])
    sets = images.for_design(design, train_images=100, test_images=50)
    assert sorted(sets) == ["digits", "textures"]
    assert all(one.train_images.shape == (100, 16, 16, 3) and len(one.test_labels) == 50 for one in sets.values())
    assert len(images.for_design(design)["digits"].train_images) == 1437
    design["image_size"][0] = 32
    with pytest.raises(ValueError, match="share one image size, but the design has"):
        images.for_design(design)
