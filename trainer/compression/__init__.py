"""Versions made smaller or faster: each method takes a version's graph and weights and gives others that answer alike.

What it gives is a version like any: inputs, output and artefact layout are the same, so replicas serve it as they serve
all others. The graph carries a recipe; with it the next version's tensors are made in milliseconds.
"""

from trainer.compression.compressed import Compressed, compress, requantise
from trainer.compression.dynamic_int8 import DYNAMIC_INT8
from trainer.compression.fp16 import FP16
from trainer.compression.int4 import INT4
from trainer.compression.method import Method
from trainer.compression.static_int8 import STATIC_INT8

METHODS: dict[str, Method] = {method.name: method for method in (DYNAMIC_INT8, STATIC_INT8, FP16, INT4)}

__all__ = ["METHODS", "STATIC_INT8", "Compressed", "Method", "compress", "requantise"]
