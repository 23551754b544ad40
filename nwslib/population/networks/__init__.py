"""Network families, one file each: layout, and the forward pass for M networks at once."""

from typing import Any

from torch import Tensor, nn

from nwslib.population.networks import cnn, kan, mlp, resnet, siren, smallcnn
from nwslib.snapshots.layout import Layout
from nwslib.space import nearest

__all__ = ["FAMILIES", "cnn", "kan", "mlp", "resnet", "siren", "smallcnn", "to_module"]

#: The module of each family. One of one's own is added here, as well as to `nwslib.space.FAMILIES`.
FAMILIES = {"cnn": cnn, "kan": kan, "mlp": mlp, "resnet8": resnet, "siren": siren, "smallcnn": smallcnn}


def to_module(layout: Layout, vector: Tensor, **properties: Any) -> nn.Module:
    """Rebuild one network of any family as an ordinary PyTorch module, in evaluation mode.

    Parameters
    ----------
    layout
        Of the network.
    vector
        Its weights, shape (w,): a tensor or an array.
    **properties
        What the weights don't tell, as the family's own ``to_module`` takes it: ``activation`` of a cnn, ``frequency``
        of a siren, ``order`` of a kan.

    Returns
    -------
    torch.nn.Module
        Takes images of shape (b, c, y, x) in [0, 1] and gives logits; of an image network, coordinates (b, 2) from -1
        to 1, and gives pixels (b, c).

    Raises
    ------
    ValueError
        If the family is unknown.
    """
    if layout.family not in FAMILIES:
        raise ValueError(f"networks of family {layout.family!r} can't be rebuilt. {nearest(layout.family, FAMILIES)}")
    return FAMILIES[layout.family].to_module(layout, vector, **properties).eval()
