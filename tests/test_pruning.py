from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from nwslib.population import pruning
from nwslib.population.networks import kan, mlp, smallcnn
from nwslib.snapshots.cnn import layout as cnn_layout
from nwslib.snapshots.units import permutation

SIZE, NETWORKS = 6, 5
LAYOUTS = {
    "mlp": (mlp, mlp.layout(SIZE, 1, width=5, depth=2, classes=3)),
    "smallcnn": (smallcnn, smallcnn.layout(1, width=4, depth=2, classes=3)),
    "kan": (kan, kan.layout(3, width=4, depth=1, inputs=SIZE**2)),
}


@pytest.fixture(scope="module")
def pixels(bars):
    return bars["digits"].train_images[:7, :SIZE, :SIZE, :1].float() / 255  # (b, y, x, c)


def trained(family):
    """Give weights that are not symmetric about 0, as those of trained networks."""
    module, layout = LAYOUTS[family]
    vectors = module.initial_weights(layout, torch.arange(NETWORKS)).float()
    return layout, vectors + 0.1 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))


def observed(family, layout, vector, pixels):
    """Give the importance of each weight of one network from what its module's layers were seen to read."""
    module = LAYOUTS[family][0].to_module(layout, vector)
    seen = []
    for layer in module.modules():
        if not list(layer.children()) and list(layer.parameters()):
            layer.register_forward_pre_hook(lambda layer, read: seen.append((layer, read[0])))
    images = pixels.permute(0, 3, 1, 2)  # (b, c, y, x)
    with torch.no_grad():
        module(2 * images.flatten(1) - 1 if family == "kan" else images)
        return torch.cat([each for layer, read in seen for each in added(layer, read)])


def added(layer, read):
    """Give the mean magnitude of what each weight of a layer adds, with NaN for its biases."""
    if isinstance(layer, nn.Linear):
        yield (layer.weight * read[:, None]).abs().mean(0).flatten()
    elif isinstance(layer, nn.Conv2d):
        window = nn.functional.unfold(read, 3, padding=1, stride=2)  # (b, i*ky*kx, places)
        yield (layer.weight.flatten(1)[None, :, :, None] * window[:, None]).abs().mean((0, 3)).flatten()
    else:
        edges = torch.empty(layer.base.shape)
        for o, i in np.ndindex(*edges.shape):
            alone = [one[o : o + 1, i : i + 1].detach() for one in (layer.base, layer.spline, layer.coefficients)]
            edges[o, i] = type(layer)(*alone, layer.order)(read[:, i : i + 1]).abs().mean()
        yield from (edges.flatten(), edges.flatten(), edges.repeat_interleave(layer.coefficients.shape[-1]))
        return
    yield torch.full((len(layer.bias),), torch.nan)


@pytest.mark.parametrize("family", LAYOUTS)
def test_importance_is_what_a_plain_network_shows_through_hooks(family, pixels):
    layout, vectors = trained(family)
    found = pruning.importance(layout, vectors, pixels)
    plain = torch.stack([observed(family, layout, vector, pixels) for vector in vectors])
    torch.testing.assert_close(found, plain, equal_nan=True, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def sets(bars):
    """Give the image set, its images cut to a size that small networks read."""
    whole = bars["digits"]
    return {"digits": replace(whole, train_images=whole.train_images[:, :SIZE, :SIZE])}


def population(family, diverged=()):
    layout, vectors = trained(family)
    weights = torch.stack([vectors.flip(1), vectors], 1).numpy()  # the last of two snapshots
    status = np.where(np.isin(np.arange(NETWORKS), diverged), "diverged", "stopped")
    weights[status == "diverged"] = np.nan
    columns = {"dataset": ["digits"] * NETWORKS, "status": status, "id": [f"n{k}" for k in range(NETWORKS)]}
    coordinates = {name: ("model", np.array(values)) for name, values in columns.items()}
    coordinates |= {"model": np.arange(NETWORKS), "snapshot": [1, 2]}
    data = {"weights": (("model", "snapshot", "weight"), weights)}
    return xr.Dataset(data, coordinates, {"layout": layout.to_json()})


@pytest.mark.parametrize("family", LAYOUTS)
def test_every_weight_but_biases_of_sound_networks_is_kept_or_dropped(family, sets):
    found = pruning.masks(population(family, diverged=[1]), sets)
    kinds = LAYOUTS[family][1].label("kind")
    asked = np.isfinite(found.values)
    assert (asked == (kinds != "bias") & (np.arange(NETWORKS) != 1)[:, None]).all()
    assert set(np.unique(found.values[asked])) == {0, 1}
    assert found.attrs["base_rate"] == pytest.approx(found.values[asked].mean())
    assert (found.attrs["threshold"], found.attrs["snapshot"]) == (pruning.THRESHOLD, 2)


def test_where_every_network_diverged_nobody_is_asked(sets):
    found = pruning.masks(population("mlp", diverged=range(NETWORKS)), sets)
    assert np.isnan(found.values).all()
    assert np.isnan(found.attrs["base_rate"])


def test_a_network_in_a_crowd_is_pruned_as_alone_and_a_higher_threshold_drops_more(sets):
    crowd = population("kan")
    found = pruning.masks(crowd, sets, threshold=0.8)
    xr.testing.assert_equal(
        found[2:3].drop_attrs(), pruning.masks(crowd.isel(model=[2]), sets, threshold=0.8).drop_attrs()
    )
    more = pruning.masks(crowd, sets, threshold=0.4)
    assert (more.values >= found.values).all()
    assert more.attrs["base_rate"] > found.attrs["base_rate"]


def test_all_weights_of_a_spline_edge_share_their_label(sets):
    layout = LAYOUTS["kan"][1]
    labels = layout.split(pruning.masks(population("kan"), sets).values)
    for layer in ("kan1", "output"):
        assert (labels[f"{layer}.base"] == labels[f"{layer}.spline"]).all()
        assert (labels[f"{layer}.coefficients"] == labels[f"{layer}.base"][..., None]).all()


@pytest.mark.parametrize("family", LAYOUTS)
def test_labels_move_with_the_hidden_units(family, sets):
    original = population(family)
    index = permutation(LAYOUTS[family][1], seed=3)
    permuted = original.assign(weights=original["weights"].isel(weight=index))
    assert (index != np.arange(len(index))).any()
    np.testing.assert_array_equal(pruning.masks(permuted, sets).values, pruning.masks(original, sets).values[:, index])


def test_a_weight_that_reads_a_silent_pixel_is_dropped(sets):
    dark = sets["digits"].train_images.clone()
    dark[:, 0] = 0
    darkened = {"digits": replace(sets["digits"], train_images=dark)}
    labels = LAYOUTS["mlp"][1].split(pruning.masks(population("mlp"), darkened).values)
    kernel = labels["dense1.kernel"]  # (m, o, y, x, c)
    assert (kernel[:, :, 0] == 0).all()
    assert kernel[:, :, 1:].mean() > 0.2


def test_what_cannot_be_pruned_is_refused(sets):
    one = population("mlp")
    with pytest.raises(ValueError, match=r"no oracle prunes networks of family 'cnn'\. Known: 'mlp', 'smallcnn'"):
        pruning.masks(one.assign_attrs(layout=cnn_layout(16, 3, 3, 2, 4, 32).to_json()), sets)
    with pytest.raises(ValueError, match=r"trained on 'digits', whose images are missing\. Known: 'glyphs'"):
        pruning.masks(one, {"glyphs": sets["digits"]})
    sized = one.assign_coords(image_size=("model", [8] * NETWORKS))
    with pytest.raises(ValueError, match=r"read images of size \[8\], but those of 'digits' are of 6"):
        pruning.masks(sized, sets)
    with pytest.raises(ValueError, match=r"there is no snapshot 3\. The nearest is 2"):
        pruning.masks(one, sets, snapshot=3)
    with pytest.raises(ValueError, match="threshold must be positive, not 0"):
        pruning.masks(one, sets, threshold=0)
    with pytest.raises(ValueError, match="sample must be a whole number of images, at least 1, not 0"):
        pruning.masks(one, sets, sample=0)
