import numpy as np
import xarray as xr

from nwslib.analysis import matrices


def matrix(scores, properties, views):
    scores = np.array(scores, float)
    columns = {"score": scores, "low": scores - 0.1, "high": scores + 0.1, "chance": np.full_like(scores, 0.25)}
    return xr.Dataset(
        {name: (("property", "view"), column) for name, column in columns.items()},
        {"property": properties, "view": views, "measure": ("property", ["accuracy", "R2"][: len(properties)])},
    )


def test_every_field_that_was_read_is_a_claim_with_its_own_numbers():
    found = matrices.claims(
        matrix([[0.5, np.nan], [0.7, 0.8]], ["batch_size", "learning_rate"], ["all", "kernels"]),
        "fig-parts",
        "{property} from {view}",
        networks=60,
        baseline=matrix([[0.3, 0.4]], ["learning_rate"], ["kernels", "biases"]),
    )
    rows = [(one["claim"], one["number"], one["low"], one["high"], one["unit"]) for one in found]
    assert [row[0] for row in rows] == ["batch size from all", "learning rate from all", "learning rate from kernels"]
    np.testing.assert_allclose([row[1:4] for row in rows], [[0.5, 0.4, 0.6], [0.7, 0.6, 0.8], [0.8, 0.7, 0.9]])
    assert [row[4] for row in rows] == ["accuracy", "R2", "R2"]
    np.testing.assert_equal([one["baseline"] for one in found], [np.nan, np.nan, 0.3])
    assert {(one["chance"], one["networks"], one["figure"]) for one in found} == {(0.25, 60.0, "fig-parts")}


def test_fields_keep_their_place_whatever_the_order_of_dimensions():
    one = matrix([[0.5, 0.6]], ["optimizer"], ["all", "kernels"])
    about = {"figure": "none", "wording": "{property} from {view}", "networks": 60}
    assert matrices.claims(one.transpose("view", "property"), **about) == matrices.claims(one, **about)
