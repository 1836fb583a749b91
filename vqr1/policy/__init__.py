"""The policy: loading, freezing, adapters, the frozen reference, shared-prompt passes, export."""
