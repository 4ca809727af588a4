"""The online half."""

import store as store  # before ONNX Runtime, which it keeps quiet
