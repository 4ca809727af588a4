"""What a version must pass before it is published: one file per gate, all of them pure; `judge` asks them in turn."""
