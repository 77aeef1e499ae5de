"""What is removed, and when, so that nothing grows for ever. May import ``runtime`` and what lies
below it; ``maskloop prune`` and a nightly task call it."""
