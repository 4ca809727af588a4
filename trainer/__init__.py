"""The offline half: label join, learner, gates, checkpoints, export and the loop that publishes versions."""
