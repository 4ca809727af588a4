"""What the online and the offline half share: records, schema, event log, registry and policy."""

import os

# ONNX Runtime's wheels tell their maker of every session and model that is opened (from 1.29 on), unless this is said before
# they are first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
