"""Train populations of small networks, keep labelled snapshots of their weights, and read them.

One letter names one axis everywhere in array code:

======  =============================================================
letter  axis
======  =============================================================
m       network of the population (``model`` in labelled data)
s       snapshot, from 1 (initialisation) to 20 (end of training)
w       weight, position in the weight vector of one network
b       image in a batch
c y x   channel, row and column of an image or of a feature map
o i     output and input channel (or unit) of a kernel
ky kx   row and column inside a convolution kernel
======  =============================================================

Labelled data (xarray, NetCDF) calls the first three ``model``, ``snapshot`` and ``weight``.
Values are names, never codes: ``optimizer == "adam"``.
"""

__version__ = "0.1.0"
