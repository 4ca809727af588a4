"""What the online and the offline half share: records, schema, event log, registry and policy."""
