"""The offline half: label join, learner, gates, checkpoints, export and the loop that publishes versions."""

import store as store  # before ONNX Runtime, which it keeps quiet
