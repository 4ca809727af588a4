"""Models from elsewhere: an ONNX file is checked, matched with a model's features, wrapped as a version, and tried out.

All of it but `sandbox.py` runs in a process of its own with limits, since the file is hostile until it is known not to be.
"""
