"""The commands: each reads its options, calls the lab, and prints the result."""
