"""What tests share: real clusters and processes, fakes, toy applications, waiting for a condition."""
