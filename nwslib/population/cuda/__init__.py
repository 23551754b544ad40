"""Programs for CUDA devices, written in Triton: every program computes a tile of one network and no other.

So a result depends neither on the number of networks nor on a network's place: sums run within one program, or over
partial results in a fixed order, never by atomic addition, and no tile size depends on the number of networks. Logical
axes are those of `nwslib.population.operators`; in memory feature maps are ``m c b y x``, so that neighbouring threads
read neighbouring pixels, and the statistics of a channel run over one piece of memory.

Where the environment variable ``TRITON_INTERPRET`` is 1 before Triton is imported, everything here runs on a CPU.
"""
