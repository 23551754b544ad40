"""Released sets of networks, in and out: each reader yields networks one by one, for `nwslib.snapshots.write`.

- `read_nws`: the study's own set, and `export_nws`, which writes it (Eilertsen et al., ECAI 2020, arXiv:2002.05688);
- `read_small_cnn_zoo`: the Small CNN Zoo (Unterthiner et al. 2020, arXiv:2002.11448);
- `read_inr`: sets of implicit neural representations (Navon et al., ICML 2023, arXiv:2301.12780, and others).

What a CSV and the sizes of files can tell is checked before the first network is read. Nothing in a file is executed,
and no file outside the given folder is opened.
"""

from nwslib.snapshots.released.inr import INR_PATTERN, read_inr
from nwslib.snapshots.released.nws import export_nws, read_nws
from nwslib.snapshots.released.small_cnn_zoo import read_small_cnn_zoo

__all__ = ["INR_PATTERN", "export_nws", "read_inr", "read_nws", "read_small_cnn_zoo"]
